// Returns every visible text with less contrast than WCAG 2.2 AA, with its contrast.
() => {
    // Colors are [red, green, blue, opacity]; text of 24 px, or of 18.66 px in bold, needs less contrast.
    const parse = (text) => {
        const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number);
        return text.startsWith("color(srgb") ? [r * 255, g * 255, b * 255, a] : [r, g, b, a];
    };
    const over = (top, below) => [0, 1, 2].map((n) => top[n] * top[3] + below[n] * (1 - top[3])).concat(1);
    const luminance = (color) => {
        const [r, g, b] = color.map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const contrast = (one, other) => {
        const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
    };
    const app = parse(getComputedStyle(document.querySelector("[data-testid=stApp]") ?? document.body).backgroundColor);
    const found = [];
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const element = texts.currentNode.parentElement;
        const text = texts.currentNode.textContent.trim();
        if (!text || !element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
        // WCAG excepts disabled controls. Text on bars is checked with the palette.
        if (element.closest(":disabled, [aria-disabled=true], style, script, .bartext")) continue;
        const box = element.getBoundingClientRect();
        if (box.width < 2 || box.height < 2) continue;
        const style = getComputedStyle(element);
        const isSvg = element instanceof SVGElement;
        if (isSvg && style.fill === "none") continue;
        let color = parse(isSvg ? style.fill : style.color), background = [0, 0, 0, 0], opacity = 1;
        const layers = [];
        for (let each = element; each; each = each.parentElement) {
            const own = getComputedStyle(each);
            opacity *= own.opacity * (isSvg ? own.fillOpacity : 1);
            if (!(each instanceof SVGElement)) layers.push(parse(own.backgroundColor));
        }
        background = layers.reverse().reduce((below, layer) => over(layer, below), app);
        color = over([...color.slice(0, 3), color[3] * opacity], background);
        const size = parseFloat(style.fontSize);
        const isLarge = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
        const isIcon = style.fontFamily.includes("Material Symbols");
        const ratio = contrast(color, background);
        if (ratio < (isLarge || isIcon ? 3 : 4.5)) found.push(`${text.slice(0, 40)}: ${ratio.toFixed(2)}`);
    }
    return [...new Set(found)];
}
