// Whether the page is drawn: the whole page, or what of it is in the window. A placeholder does not count.
(isWholePage) => {
  const state = document.querySelector('[data-testid=stApp]')?.dataset.testScriptState
  // The page is complete once the script has ended for the first time; live parts run it again.
  window.hasRun ||= state === 'notRunning' && document.querySelector('h1') !== null
  if (!window.hasRun) return false
  const isAwaited = (element) => {
    const { top, bottom } = element.getBoundingClientRect()
    return element.checkVisibility() && (isWholePage || (top < innerHeight && bottom > 0))
  }
  const contents = {
    stBidiComponentRegular: '.main-svg',
    stMetricChart: 'canvas, svg',
    stDataFrame: 'canvas',
  }
  const isMissing = (id, content) =>
    [...document.querySelectorAll(`[data-testid=${id}]`)].some((e) => isAwaited(e) && !e.querySelector(content))
  if ([...document.querySelectorAll('[data-testid^=stSkeleton]')].some(isAwaited)) return false
  return !Object.entries(contents).some(([id, content]) => isMissing(id, content))
}
