"""Worker processes: they poll a task queue and execute its workflows and activities."""
