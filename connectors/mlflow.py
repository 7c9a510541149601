"""Client of one MLflow server by its REST API 2.0: training runs, and adapters as versions of one registered model.

Every call finds what an earlier one left behind before it creates anything, so a call may be repeated, also after a
crash in the middle. MLflow's own client is not used: it pins packages that vLLM needs in other versions, reads its
credentials from the process's environment, and waits minutes for a server that is away.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx

API = "/api/2.0/mlflow/"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts/"
KEY_TAG = "erratad.run"
"""Tag with the key by which a run is found again."""
FOLDER = "adapter"
"""Of an uploaded adapter, among the run's artifacts."""
DIGEST_CHARACTERS = 36
"""MLflow keeps no longer digest of a dataset."""
PARAM_CHARACTERS, NOTE_CHARACTERS, ERROR_CHARACTERS = 6000, 5000, 300
BATCH_PARAMS, BATCH_POINTS = 100, 1000

_LATER = frozenset({401, 403, 408, 429, 502, 503, 504})
"""The server is away, busy, or does not know these credentials: the request may succeed later as it is."""
T = TypeVar("T")


class MlflowError(Exception):
    """MLflow refused a request. The text has its reason."""


class MlflowUnavailableError(MlflowError):
    """No MLflow server answers, or it takes no request with these credentials or at this address."""


class _UnknownError(MlflowError):
    """MLflow has no such thing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One value of a metric. A point that is logged twice counts once if its time is the same."""

    name: str
    value: float
    at: datetime
    step: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """All that MLflow is told of a run. `key` is unique among all runs of the experiment."""

    key: str
    name: str
    started_at: datetime
    ended_at: datetime | None
    note: str
    params: Mapping[str, str]
    points: Sequence[Point]
    tags: Mapping[str, str]
    dataset_sha256: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """`folder` is uploaded if it is set; otherwise the version only names `source`."""

    source: str
    folder: Path | None
    tags: Mapping[str, str]


class _Bearer(httpx.Auth):
    def __init__(self, token: str) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["authorization"] = f"Bearer {self._token}"
        yield request


def auth_of(*, token: str | None, username: str | None, password: str | None) -> httpx.Auth | None:
    """A bearer token, or a user with a password; None: the server asks for neither."""
    if token is not None:
        return _Bearer(token)
    return None if username is None else httpx.BasicAuth(username, password or "")


class MlflowServer:
    """Client of one server. It never retries: the caller decides that.

    Each method raises `MlflowUnavailableError` if nothing can be sent now, and `MlflowError` if MLflow refuses.
    """

    def __init__(
        self, uri: str, *, experiment: str, model: str, timeout_s: float, auth: httpx.Auth | None = None
    ) -> None:
        self._client = httpx.Client(base_url=uri.rstrip("/"), timeout=timeout_s, auth=auth, follow_redirects=False)
        self._experiment = experiment
        self._model = model

    def record(self, run: TrainingRun) -> str:
        """Create the run, or complete the one that has its key. Returns MLflow's id of it."""
        run_id = self._run_id(run)
        tags = {**run.tags, "mlflow.note.content": run.note[:NOTE_CHARACTERS]}
        self._post("runs/log-batch", run_id=run_id, tags=_pairs(tags))
        params = {name: text[:PARAM_CHARACTERS] for name, text in run.params.items()}
        for some in _batches(_pairs(params), BATCH_PARAMS):
            self._post("runs/log-batch", run_id=run_id, params=some)
        for points in _batches(map(_metric, run.points), BATCH_POINTS):
            self._post("runs/log-batch", run_id=run_id, metrics=points)
        if run.dataset_sha256 is not None:
            self._post("runs/log-inputs", run_id=run_id, datasets=[_dataset(run.name, run.dataset_sha256)])
        if run.ended_at is not None:
            self._post("runs/update", run_id=run_id, status="FINISHED", end_time=_ms(run.ended_at))
        return run_id

    def register(self, run_id: str, version: ModelVersion) -> str:
        """Create the run's model version, or update the tags of the one that exists. Returns its number."""
        if self._aliases() is None:
            self._post("registered-models/create", name=self._model)
        query = {"filter": f"name = '{self._model}' and run_id = '{run_id}'", "max_results": 1}
        found = self._get("model-versions/search", **query).get("model_versions", [])
        if found:
            number = str(found[0]["version"])
            for one in _pairs(version.tags):
                self._post("model-versions/set-tag", name=self._model, version=number, **one)
            return number
        source = version.source if version.folder is None else self._upload(run_id, version.folder)
        given = {"name": self._model, "source": source, "run_id": run_id, "tags": _pairs(version.tags)}
        return str(self._post("model-versions/create", **given)["model_version"]["version"])

    def set_aliases(self, aliases: Mapping[str, str | None]) -> None:
        """Let each alias name this version of the model; None: the model has no such alias."""
        now = self._aliases() or {}
        for alias, version in aliases.items():
            named = {"name": self._model, "alias": alias}
            if version is not None and now.get(alias) != version:
                self._post("registered-models/alias", **named, version=version)
            if version is None and alias in now:
                self._ask("DELETE", API + "registered-models/alias", json=named)

    def close(self) -> None:
        self._client.close()

    def _run_id(self, run: TrainingRun) -> str:
        experiment_id = self._experiment_id()
        query = {"experiment_ids": [experiment_id], "filter": f"tags.`{KEY_TAG}` = '{run.key}'", "max_results": 1}
        found = self._post("runs/search", **query).get("runs")
        if not found:
            tags = _pairs({KEY_TAG: run.key})
            given = {"experiment_id": experiment_id, "run_name": run.name, "start_time": _ms(run.started_at)}
            found = [self._post("runs/create", **given, tags=tags)["run"]]
        return str(found[0]["info"]["run_id"])

    def _experiment_id(self) -> str:
        try:
            found = self._get("experiments/get-by-name", experiment_name=self._experiment)["experiment"]
        except _UnknownError:
            found = self._post("experiments/create", name=self._experiment)
        return str(found["experiment_id"])

    def _aliases(self) -> dict[str, str] | None:
        """The version of each alias; None: there is no such model."""
        try:
            model = self._get("registered-models/get", name=self._model)["registered_model"]
        except _UnknownError:
            return None
        return {one["alias"]: str(one["version"]) for one in model.get("aliases", [])}

    def _upload(self, run_id: str, folder: Path) -> str:
        """Put the files of the folder among the run's artifacts; returns the source of a version with them."""
        root = urlsplit(self._get("runs/get", run_id=run_id)["run"]["info"]["artifact_uri"])
        if root.scheme != "mlflow-artifacts":
            raise MlflowError(
                f"artifacts of this experiment are kept at {root.scheme}:, not by the server; "
                "start it with --artifacts-destination, or set mlflow.upload_adapters to false"
            )
        for path in sorted(one for one in folder.rglob("*") if one.is_file()):
            name = quote(f"{root.path.strip('/')}/{FOLDER}/{path.relative_to(folder).as_posix()}")
            with path.open("rb") as file:
                self._ask("PUT", ARTIFACTS + name, content=file)
        return f"runs:/{run_id}/{FOLDER}"

    def _get(self, call: str, **query: Any) -> dict[str, Any]:
        return self._ask("GET", API + call, params=query)

    def _post(self, call: str, **values: Any) -> dict[str, Any]:
        return self._ask("POST", API + call, json=values)

    def _ask(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        try:
            answer = self._client.request(method, path, **request)
        except httpx.HTTPError as exc:
            raise MlflowUnavailableError(f"no answer ({type(exc).__name__})") from exc
        found = _json(answer)
        if answer.is_success and found is not None:
            return found
        raise _error(answer.status_code, found or {})


def _json(answer: httpx.Response) -> dict[str, Any] | None:
    try:
        found = answer.json() if answer.content else {}
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _error(status: int, found: Mapping[str, Any]) -> MlflowError:
    """An answer without MLflow's `error_code` comes from something else, such as a proxy, or a wrong address."""
    code = found.get("error_code")
    first = str(found.get("message") or "").partition("\n")[0][:ERROR_CHARACTERS]
    text = f"HTTP {status}" if code is None else f"HTTP {status}, {code}: {first}"
    if status in _LATER or code is None:
        return MlflowUnavailableError(text)
    return _UnknownError(text) if status == HTTPStatus.NOT_FOUND else MlflowError(text)


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": name, "value": value} for name, value in values.items()]


def _metric(point: Point) -> dict[str, Any]:
    return {"key": point.name, "value": point.value, "timestamp": _ms(point.at), "step": point.step}


def _dataset(run: str, sha256: str) -> dict[str, Any]:
    source = f'{{"manifest_sha256": "{sha256}"}}'
    named = {"name": f"{run} reports", "digest": sha256[:DIGEST_CHARACTERS]}
    return {"tags": [], "dataset": {**named, "source_type": "erratad", "source": source}}


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some
