"""Load tests: start, watch and stop runs; stored runs and their trend; the page of one run."""

import streamlit as st

from dashboard.page_elements import error_boundary, live_fragment, page_header, stop_on_invalid_query
from dashboard.sections import run_list, running_load_tests, start_load_test
from dashboard.sections.run import view

running_load_tests.open_clicked_run()
stop_on_invalid_query("load_tests")
run_id = st.query_params.get("run")
if run_id:
    with error_boundary("load-test"):
        view.show(run_id)
else:
    is_live = page_header("Load tests", live=True)
    with error_boundary("load-tests-form"):
        start_load_test.show()
    live_fragment(running_load_tests.show, is_live, result_key=running_load_tests.RESULT_KEY)
    live_fragment(run_list.show, is_live, every=5.0)
