"""Callback of a LiteLLM proxy that passes feedback on to erratad: it writes into each message whose key sent it.

LiteLLM's configuration names it, `callbacks: ["connectors.litellm.feedback"]`; docs/integrate.md has the whole. All
keys of a proxy reach erratad with one token. So the name of the key's user goes before the reporter, and the key's team
is the tenant: no key can speak for the users of another one, and a user with several keys counts once. The module
needs LiteLLM alone, so it may also be copied beside LiteLLM's configuration.
"""

from __future__ import annotations

from typing import Any

from litellm.integrations.custom_logger import CustomLogger

ROUTE = "/v1/feedback"
ADMIN = "default_user_id"
"""LiteLLM's user of the master key, and of each key that an administrator makes in the interface."""
UNNAMED = "litellm"


class FeedbackCallback(CustomLogger):  # type: ignore[misc]
    """Looks at what passes through ROUTE, and at nothing else."""

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: str
    ) -> dict[str, Any]:
        """LiteLLM sends the message that this returns."""
        del cache
        key = user_api_key_dict
        if call_type != "pass_through_endpoint" or key.request_route != ROUTE:
            return data
        said_by, team, name = data.get("reporter"), key.team_alias or key.team_id, _owner(key)
        stamped = {**data, "reporter": name if said_by in {None, ""} else f"{name}/{said_by}"}
        return {**stamped, "tenant": team} if team else stamped


def _owner(key: Any) -> str:
    """The key's user, or the key's alias where the user is nobody or the administrator; no slash is left in it."""
    names = (None if key.user_id == ADMIN else key.user_id, key.key_alias, key.user_id, UNNAMED)
    found = next(name for name in names if name)
    return str(found).replace("%", "%25").replace("/", "%2F")


feedback = FeedbackCallback()
