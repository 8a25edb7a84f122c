"""The search attribute OrderRunId of order workflows: the run that an order belongs to.

By it, Temporal's UI and the audit list the orders of one run. A namespace must have the attribute before an
order can be started with it.
"""

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.api.workflowservice.v1 import CountWorkflowExecutionsRequest, DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError, RPCStatusCode

from orchestrator.temporal import task_queues

ORDER_RUN_ID = SearchAttributeKey.for_keyword("OrderRunId")


def of_run(run_id: str | None) -> TypedSearchAttributes:
    """Return the search attributes of an order; none for an order without a run."""
    return TypedSearchAttributes([] if run_id is None else [SearchAttributePair(ORDER_RUN_ID, run_id)])


def run_filter(run_id: str) -> str:
    """Return the list filter for the workflows of one run."""
    quoted = run_id.replace("\\", "\\\\").replace("'", "\\'")
    return f"{ORDER_RUN_ID.name} = '{quoted}'"


async def is_registered(client: Client) -> bool:
    """Return whether the namespace has the attribute. Needs no permission of an operator."""
    request = CountWorkflowExecutionsRequest(namespace=client.namespace, query=run_filter("any"))
    try:
        await client.workflow_service.count_workflow_executions(
            request, retry=False, timeout=task_queues.RPC_TIMEOUT
        )
    except RPCError as error:
        if error.status is RPCStatusCode.INVALID_ARGUMENT:
            return False
        raise
    return True


async def register(client: Client) -> str:
    """Add the attribute to the namespace unless it has it. Return its column in the visibility store."""
    await client.operator_service.add_search_attributes(
        AddSearchAttributesRequest(
            namespace=client.namespace,
            search_attributes={ORDER_RUN_ID.name: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD},
        )
    )
    described = await client.workflow_service.describe_namespace(
        DescribeNamespaceRequest(namespace=client.namespace)
    )
    columns = {name: column for column, name in described.config.custom_search_attribute_aliases.items()}
    return columns[ORDER_RUN_ID.name]
