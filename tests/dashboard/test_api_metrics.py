"""The API's metrics: speed over a window, and restarts."""

import math

from dashboard.data.api_metrics import ApiMeter, ApiSpeed, cumulative_buckets, speed_between

METRICS = """# TYPE http_request_duration_seconds histogram
http_request_duration_seconds_bucket{le="0.1",method="GET",route="/a",status="200"} %s
http_request_duration_seconds_bucket{le="1.0",method="GET",route="/a",status="200"} %s
http_request_duration_seconds_bucket{le="+Inf",method="GET",route="/a",status="200"} %s
http_request_duration_seconds_bucket{le="0.1",method="GET",route="/a?wait",status="200"} 0.0
http_request_duration_seconds_bucket{le="+Inf",method="GET",route="/a?wait",status="200"} 99.0
http_request_duration_seconds_bucket{le="+Inf",method="GET",route="/audit",status="200"} 99.0
"""


def test_long_polls_and_reports_are_excluded():
    assert cumulative_buckets(METRICS % (5.0, 8.0, 9.0)) == {0.1: 5.0, 1.0: 8.0, math.inf: 9.0}


def test_speed_is_the_difference_of_two_readings():
    before, after = {0.1: 5.0, 1.0: 8.0, math.inf: 9.0}, {0.1: 104.0, 1.0: 108.0, math.inf: 109.0}
    assert speed_between(before, after) == ApiSpeed(100, 0, 100.0)
    assert speed_between(after, after) == ApiSpeed(0, 0, None)
    assert speed_between({}, before) == ApiSpeed(9, 1, math.inf)


def test_a_restarted_api_counts_from_zero():
    readings = iter([METRICS % (90.0, 90.0, 90.0), METRICS % (1.0, 2.0, 2.0)])
    meter = ApiMeter()
    assert meter.read(lambda: next(readings))[0].requests == 90
    assert meter.read(lambda: next(readings)) == (ApiSpeed(2, 0, 1_000.0), {})
