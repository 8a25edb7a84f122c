/* The charts, the playback and the theme of report.html. */
{
  const root = document.documentElement;
  const toggle = document.getElementById("theme");
  let figures = {};
  let darkColors = {};
  let playback = null;

  const isDark = () => root.dataset.theme === "dark";

  /* The figures have the colors of the light theme. */
  const inTheme = (text) =>
    isDark() ? text.replace(/"#[0-9a-f]{6}"/g, (color) => JSON.stringify(darkColors[JSON.parse(color)] ?? JSON.parse(color))) : text;

  const drawChart = (id) => {
    const element = document.getElementById(id);
    // It is drawn when the element opens.
    if (element.closest("details:not([open])")) return null;
    const { data, layout } = JSON.parse(inTheme(figures[id]));
    layout.dragmode = false;
    const style = getComputedStyle(root);
    layout.hoverlabel = {
      bgcolor: style.getPropertyValue("--surface"),
      bordercolor: style.getPropertyValue("--control"),
      font: { size: 13, color: style.getPropertyValue("--text") },
    };
    return Plotly.react(element, data, layout, { displaylogo: false, displayModeBar: false, responsive: true });
  };

  const drawAll = () => Promise.all(Object.keys(figures).map(drawChart));

  const setTheme = (theme) => {
    root.dataset.theme = theme;
    toggle.textContent = theme === "dark" ? "Light" : "Dark";
    toggle.setAttribute("aria-label", `Use the ${theme === "dark" ? "light" : "dark"} theme`);
    playback?.readColors();
    return drawAll();
  };

  const showProblem = (error) => {
    const problem = document.getElementById("problem");
    problem.textContent = `The charts cannot be shown in this browser: ${error.message}.`;
    problem.hidden = false;
  };

  const start = async () => {
    await setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    toggle.hidden = false;
    toggle.addEventListener("click", () => setTheme(isDark() ? "light" : "dark"));
    playback = new Playback(document.querySelector(".playback"), JSON.parse(await unpack("playback-data")));
    window.playback = playback;
    const script = document.createElement("script");
    script.textContent = await unpack("plotly-data");
    document.head.append(script);
    const unpacked = JSON.parse(await unpack("figures-data"));
    darkColors = unpacked.colors;
    figures = Object.fromEntries(Object.entries(unpacked.figures).map(([id, figure]) => [id, JSON.stringify(figure)]));
    await drawAll();
    for (const details of document.querySelectorAll("details")) {
      details.addEventListener("toggle", () => details.open && drawChart(details.querySelector(".chart").id));
    }
    document.body.dataset.ready = "true";
  };

  // Paper is light, and has no closed elements.
  let themeBeforePrint = null;
  window.addEventListener("beforeprint", () => {
    themeBeforePrint = root.dataset.theme;
    for (const details of document.querySelectorAll("details")) details.open = true;
    setTheme("light");
  });
  window.addEventListener("afterprint", () => setTheme(themeBeforePrint));
  start().catch(showProblem);
}
