"""The order lifecycle system: workflows, activities, REST API, command line and embedded stack."""
