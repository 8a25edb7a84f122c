"""Makes Locust's page and files show the same counts and percentiles as the verdict."""

import time
from collections.abc import Mapping

from locust import stats

from db.read_models.percentiles import percentile_of_counts


def use_exact_statistics() -> None:
    """Change Locust's statistics in this process: exact times, nearest-rank percentiles, complete files."""
    # By default Locust rounds times to two digits, and from 10 s to whole seconds: 15,450 ms would read as
    # 15,000 ms.
    stats.bucket_response_time = lambda response_time: round(response_time)
    # Locust's rank is one too high when p * n is a whole number: its p99 of 100 times is the maximum.
    stats.calculate_response_time_percentile = _percentile
    stats.StatsCSVFileWriter.close_files = _complete_and_close  # type: ignore[method-assign, assignment]


def _percentile(response_times: Mapping[int, int], num_requests: int, percent: float) -> int:
    return percentile_of_counts(response_times, percent) if num_requests else 0


_close = stats.StatsCSVFileWriter.close_files


def _complete_and_close(writer: stats.StatsCSVFileWriter) -> None:
    """Write the files of `--csv` once more: Locust writes them every second, but not at the end."""
    for file, csv_writer, columns, write_rows in (
        (
            writer.requests_csv_filehandle,
            writer.requests_csv_writer,
            writer.requests_csv_columns,
            writer._requests_data_rows,
        ),
        (
            writer.failures_csv_filehandle,
            writer.failures_csv_writer,
            writer.failures_columns,
            writer._failures_data_rows,
        ),
        (
            writer.exceptions_csv_filehandle,
            writer.exceptions_csv_writer,
            writer.exceptions_columns,
            writer._exceptions_data_rows,
        ),
    ):
        file.seek(0)
        csv_writer.writerow(columns)
        write_rows(csv_writer)
        file.truncate()
    writer._stats_history_data_rows(writer.stats_history_csv_writer, time.time())
    _close(writer)
