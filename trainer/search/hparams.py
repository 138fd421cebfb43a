"""TensorBoard's log of a search: a folder for each run, which the HParams table and the curves are made from.

    searches/NAME/tensorboard/                      the settings and the metric of the search
    searches/NAME/tensorboard/RUN/                  what a run has: its settings, the metric of each epoch, its end

Each end of a run adds a file, whose name says up to which epoch: nothing is written twice, and TensorBoard reads files
in the order of their names. TensorFlow is not needed.
"""

import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.struct_pb2 import ListValue  # type: ignore[import-untyped]
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from trainer.runtime.system import write_atomic
from trainer.search.space import Range
from trainer.search.state import Key, State, run_name
from trainer.search.table import setting_names, settings_of

FOLDER = "tensorboard"
PREFIX = "events.out.tfevents."


def write_experiment(state: State) -> None:
    """Write what is compared, if that is not written yet: the settings with their ranges, and the metric."""
    folder = state.plan.folder / FOLDER
    if list(folder.glob(f"{PREFIX}*")):
        return
    space = state.plan.checked_space()
    infos = [info_of(name, space.settings.get(name, list(space.variants))) for name in setting_names(state)]
    metrics = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in tags_of(state)]
    experiment = api_pb2.Experiment(description=f"search {state.plan.name}", hparam_infos=infos, metric_infos=metrics)
    pb = summary(metadata.EXPERIMENT_TAG, HParamsPluginData(experiment=experiment))
    write_events(folder / f"{PREFIX}{0:06}", [Event(wall_time=time.time(), summary=pb)])


def tags_of(state: State) -> tuple[str, str]:
    """The names of the best metric so far, since HParams shows the last value, and of the metric."""
    return f"best_validation_{state.plan.metric}", f"validation_{state.plan.metric}"


def info_of(name: str, values: list[Any] | Range) -> api_pb2.HParamInfo:
    """A setting, and the range or the list of its values."""
    if isinstance(values, Range):
        interval = api_pb2.Interval(min_value=values.low, max_value=values.high)
        return api_pb2.HParamInfo(name=name, type=api_pb2.DATA_TYPE_FLOAT64, domain_interval=interval)
    shown = [shown_value(value) for value in values]
    domain = ListValue()
    if all(isinstance(value, float) for value in shown):
        domain.extend(sorted(shown))
        return api_pb2.HParamInfo(name=name, type=api_pb2.DATA_TYPE_FLOAT64, domain_discrete=domain)
    domain.extend([str(value) for value in shown])
    return api_pb2.HParamInfo(name=name, type=api_pb2.DATA_TYPE_STRING, domain_discrete=domain)


def shown_value(value: Any) -> float | str:
    """A setting as HParams knows it: a number, or text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return value if isinstance(value, str) else json.dumps(value)


def write_run(state: State, key: Key) -> None:
    """Write what a run has come to and what is not written yet."""
    run, name = state.runs[key], run_name(state.plan, key)
    if not (run.machine or run.reason):  # not begun
        return
    folder = state.plan.folder / FOLDER / name
    written = sorted(path.name for path in folder.glob(f"{PREFIX}*"))
    logged = int(written[-1].removeprefix(PREFIX).partition(".")[0]) if written else 0
    ended = api_pb2.STATUS_FAILURE if run.reason else api_pb2.STATUS_SUCCESS if run.over else None
    path = folder / f"{PREFIX}{run.epochs:06}{'.end' if ended is not None else ''}"
    if path.exists() or run.epochs < logged:
        return
    now = time.time()
    events = [Event(wall_time=now, summary=start_of(state, key, name, now))] if not written else []
    better, best = max if state.plan.higher_is_better else min, None
    for epoch, value in enumerate(run.values, 1):
        if value is not None:
            best = value if best is None else better(best, value)
            if epoch > logged:
                points = [scalar(tag, number) for tag, number in zip(tags_of(state), (best, value), strict=True)]
                events.append(Event(wall_time=now, step=epoch, summary=Summary(value=points)))
    if ended is not None:
        info = HParamsPluginData(session_end_info=SessionEndInfo(status=ended, end_time_secs=now))
        events.append(Event(wall_time=now, summary=summary(metadata.SESSION_END_INFO_TAG, info)))
    write_events(path, events)


def start_of(state: State, key: Key, name: str, now: float) -> Summary:
    """The settings of a run."""
    start = SessionStartInfo(group_name=name, start_time_secs=now)
    for setting, value in settings_of(state, key.trial).items():
        shown = shown_value(value)
        if isinstance(shown, float):
            start.hparams[setting].number_value = shown
        else:
            start.hparams[setting].string_value = shown
    return summary(metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start))


def scalar(tag: str, value: float) -> Summary.Value:
    """A point of a curve."""
    with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite
        return scalar_pb(tag, np.float32(value)).value[0]


def summary(tag: str, data: HParamsPluginData) -> Summary:
    """A record for the HParams plugin."""
    return Summary(
        value=[
            Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)
        ]
    )  # fmt: skip


def write_events(path: Path, events: list[Event]) -> None:
    """Write a file of events, completely or not at all."""
    data = io.BytesIO()
    writer = RecordWriter(data)
    for event in [Event(wall_time=events[0].wall_time, file_version="brain.Event:2"), *events]:
        writer.write(event.SerializeToString())
    write_atomic(path, data.getvalue())
