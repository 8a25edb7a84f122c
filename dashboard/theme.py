"""The theme of the pages: light and dark colours as Streamlit configuration."""

_SHARED = {
    "theme.baseRadius": "0.6rem",
    "theme.showWidgetBorder": True,
    "theme.metricValueFontSize": "1.6rem",
    "theme.headingFontWeights": [650, 600, 600, 600, 600, 600],
    "theme.headingFontSizes": ["1.75rem", "1.35rem", "1.1rem", "1rem", "1rem", "1rem"],
}
_LIGHT = {
    "primaryColor": "#0b6bb5",
    "backgroundColor": "#ffffff",
    "secondaryBackgroundColor": "#f3f6f9",
    "textColor": "#17212b",
    "borderColor": "#d5dde5",
}
_DARK = {
    "primaryColor": "#56b4e9",
    "backgroundColor": "#10161d",
    "secondaryBackgroundColor": "#1a232d",
    "textColor": "#e8eef4",
    "borderColor": "#33404d",
}

CONFIGURATION: dict[str, object] = {
    **_SHARED,
    **{f"theme.light.{name}": value for name, value in _LIGHT.items()},
    **{f"theme.dark.{name}": value for name, value in _DARK.items()},
}
