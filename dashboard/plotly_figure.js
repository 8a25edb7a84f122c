// Draws a Plotly figure. The next figure of the same element is drawn in its place, which keeps the user's zoom.

const FULL_SCREEN = {
  name: 'fullScreen',
  title: 'Full screen (leave with Esc)',
  icon: { width: 24, height: 24, path: 'M4 4h6v2H6v4H4zm10 0h6v6h-2V6h-4zM4 14h2v4h4v2H4zm14 0h2v6h-6v-2h4z' },
  click: (element) => element.requestFullscreen(),
}

const isInWindow = (element) => {
  const { top, bottom } = element.getBoundingClientRect()
  return top < innerHeight && bottom > 0
}

const sizeOf = (element) => `${element.clientWidth} x ${element.clientHeight}`

// Safari has no requestIdleCallback.
const whenIdle = window.requestIdleCallback ?? setTimeout
const untilIdle = () => new Promise((resolve) => whenIdle(resolve, { timeout: 1000 }))

export default async ({ data: { figure, script, zoom, description }, parentElement, setTriggerValue }) => {
  const element = parentElement.querySelector('[role=figure]')
  element.ariaLabel = description
  element.latest = figure
  element.setTrigger = setTriggerValue
  const { default: Plotly } = await import(new URL(script, location))
  // The charts in the window first.
  if (!isInWindow(element)) await untilIdle()
  const release = () => {
    // Streamlit also calls it when the next figure arrives while this one waits.
    if (element.isConnected) return
    element.resized?.disconnect()
    Plotly.purge(element)
  }
  if (element.latest !== figure || !element.isConnected) return release

  const { data, layout } = JSON.parse(figure)
  layout.font.family = getComputedStyle(element).fontFamily
  // Plotly takes the size of the element: this height, or that of the full screen.
  element.style.height = `${layout.height}px`
  await Plotly.react(element, data, layout, {
    displaylogo: false,
    displayModeBar: zoom ? 'hover' : false,
    modeBarButtonsToAdd: [FULL_SCREEN],
    // The last of these would send the chart to a server of Plotly.
    modeBarButtonsToRemove: ['lasso2d', 'select2d', 'sendChartToCloud'],
  })
  if (element.resized) return release
  element.on('plotly_click', ({ points: [point] }) => {
    if (point.customdata !== undefined) element.setTrigger('clicked', String(point.customdata))
  })
  let drawnSize = sizeOf(element)
  element.resized = new ResizeObserver(() => {
    if (element.clientWidth === 0 || sizeOf(element) === drawnSize) return
    drawnSize = sizeOf(element)
    Plotly.Plots.resize(element)
  })
  element.resized.observe(element)
  return release
}
