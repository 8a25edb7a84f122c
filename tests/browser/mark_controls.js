// Names every control that can have the focus, and remembers how it looks without.
() => {
    const style = (element) => {
        const looks = [];
        for (let each = element; each && looks.length < 4; each = each.parentElement) {
            const { outline, boxShadow, borderColor, backgroundColor, textDecoration } = getComputedStyle(each);
            looks.push([outline, boxShadow, borderColor, backgroundColor, textDecoration]);
        }
        return JSON.stringify(looks);
    };
    const GROUP = "[role=radiogroup], [data-testid=stButtonGroup]";
    window.lookOf = style;
    document.activeElement.blur();
    // A transition would change the look after the check.
    document.head.insertAdjacentHTML("beforeend", "<style>* { transition: none !important; }</style>");
    const first = (each, group) => each === group.querySelector("button, input");
    const controls = [...document.querySelectorAll("a[href], button, input, select, textarea, [tabindex]")].filter(
        (each) => each.tabIndex >= 0 && !each.disabled && each.type !== "hidden"
            && each.checkVisibility({ visibilityProperty: true, opacityProperty: true }) && !each.closest("[inert]")
            // Of a group of radio buttons one is a stop of the Tab key; the arrow keys lead to the others.
            && (!each.closest(GROUP) || first(each, each.closest(GROUP)))
    );
    // A rerun of the page can replace a control by a new one of the same name. The text of a table's canvas is set later.
    const text = (each) =>
        each.tagName === "CANVAS" ? each.closest("[aria-label]")?.ariaLabel ?? "" : each.textContent.trim().slice(0, 40).trim();
    window.nameOf = (each) => `${each.tagName} ${each.getAttribute("aria-label") || text(each)}`;
    controls.forEach((each) => { each.dataset.look = style(each); });
    return controls.map(nameOf);
}
