"""The fault profile of a run: set at its start, restored at its end."""

from loadtest.generator.api_client import ApiClient
from loadtest.options import RunOptions
from orchestrator.errors import UsageError
from orchestrator.rest_client import Json


class FaultProfile:
    """The fault profile of one run.

    Every method raises ServiceUnavailable when there is no response, and UsageError when the API refuses.
    """

    def __init__(self, api: ApiClient) -> None:
        self._api = api
        self.before: Json | None = None
        """The profile to restore; None if there is nothing to restore."""

        self.since: str | None = None
        """When the run set its profile, by the API's clock; None if it sets none."""

        self.profile: str | None = None
        self.seed: int | None = None

    def active(self) -> Json:
        """Return the active profile."""
        response = self._api.get("/faults", "faults")
        if not response.is_ok:
            raise UsageError(f"The fault profile could not be read: HTTP status {response.status}.")
        return response.body

    def begin(self, options: RunOptions) -> None:
        """Set the profile of the run, or read the active one if the run sets none."""
        active = self.active()
        if options.faults is None:
            self.profile, self.seed = active.get("profile"), active.get("seed")
            return
        self.before = active
        self.since = self._put({"profile": options.faults, "seed": options.seed})
        self.profile, self.seed = options.faults, options.seed

    def restore(self) -> None:
        """Restore the previous profile, unless the profile was changed during the run."""
        if self.before is None:
            return
        # `since` is None if the response to setting the profile was lost.
        if self.since is not None and self.active()["since"] != self.since:
            self.before = None
            return
        before = {"profile": self.before["profile"], "seed": self.before["seed"]}
        if before["profile"] == "custom":
            before["rates"] = self.before["rates"]
        self._put(before)
        self.before = None

    def _put(self, profile: Json) -> str:
        """Set a profile. Returns the time of this change, which identifies the change."""
        response = self._api.call("PUT", "/faults", profile, "faults")
        if not response.is_ok:
            raise UsageError(
                f"The API refused the fault profile: {response.body.get('detail', response.status)}"
            )
        return str(response.body["since"])
