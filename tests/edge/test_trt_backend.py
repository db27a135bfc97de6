"""TrtBackend with the real pycuda, on stand-ins for the CUDA driver and for TensorRT: no GPU, nothing of NVIDIA's."""

from __future__ import annotations

import ctypes
import json
from types import SimpleNamespace
from typing import Any

import pytest

from fthnet_kit.edge.errors import EngineError
from fthnet_kit.edge.inference import cuda_graph
from tests.cuda_stand_in.rig import on_stand_in, process_on_stand_in

pytestmark = pytest.mark.slow

START = """
import stand_in
from tensorrt_stand_in import make_tensorrt, plan
from fthnet_kit.edge.errors import EngineError
from fthnet_kit.edge.inference.tensorrt_engine import TrtBackend

trt = make_tensorrt()
rng = np.random.default_rng(0)

def pictures(count):
    return rng.integers(0, 256, (count, 384, 384, 3), dtype=np.uint8)

def right(backend, count=2):
    images = pictures(count)
    scores = backend.infer(images)
    assert scores.dtype == np.float32
    return scores.shape == (count,) and bool(np.allclose(scores, images.mean(axis=(1, 2, 3)), rtol=0, atol=1e-3))

def refused(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except EngineError as error:
        assert error.__cause__ is None or "\\n" not in str(error)
        return str(error)

def in_thread(work):
    answers = []
    thread = threading.Thread(target=lambda: answers.append(work()))
    thread.start()
    thread.join()
    return answers[0]

def left():
    return [stand_in.live(), stand_in.abandoned(), trt.module.violations, stand_in.context_depth()]

def say(**answer):
    print(json.dumps({**answer, "left": left()}))
"""
NOTHING = [{}, {}, [], 0]
HELD = {"device_memory": 2, "pinned_memory": 2, "stream": 1, "event": 4, "primary_context": 1}
FAILED = "CUDA failed while scoring: "
HINT = "; the engine runs without cuda_graph, too"


def run(script: str) -> Any:
    """The script's answer; it must leave nothing on the GPU, break no rule of TensorRT's, and keep stderr empty."""
    done = process_on_stand_in(START + script)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
    assert done.stderr == ""
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer.pop("left") == NOTHING
    return answer


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_scores_and_stage_times(batch: int, graph: bool) -> None:
    answer = run(
        f"""
counts = [1, {batch}, 2 * {batch}, 2 * {batch} + 1, 1]
with TrtBackend(plan({batch}), trt, cuda_graph={graph}) as backend:
    answers = [right(backend, count) for count in counts]
    backend.infer(pictures(3 * {batch}))
    thrice = backend.stage_ms()
    facts, held = backend.describe(), stand_in.live()
say(answers=answers, thrice=thrice, facts=facts, held=held, executed=trt.module.calls.count("execute_async_v3"),
    launched=stand_in.count("cuGraphLaunch"))
"""
    )
    assert answer["answers"] == [True] * 5
    assert list(answer["thrice"]) == ["h2d", "gpu_compute", "d2h", "enqueue"]
    assert all(0 <= ms < 1000 for ms in answer["thrice"].values())
    assert answer["facts"] == {
        "library": "tensorrt 10.3",
        "provider": "CUDA stand-in (host memory), compute capability 8.7" + (", CUDA graph" if graph else ""),
        "threads": "1",
    }
    chunks = sum(-(-count // batch) for count in (1, batch, 2 * batch, 2 * batch + 1, 1, 3 * batch))
    assert (answer["executed"], answer["launched"]) == ((2, chunks) if graph else (chunks, 0))  # one launch a batch
    assert answer["held"] == HELD | ({"graph": 1, "executable_graph": 1} if graph else {})


def test_stage_times_are_sums_over_the_chunks_of_the_latest_call() -> None:
    answer = run(
        """
with TrtBackend(plan(2), trt) as backend:
    before = backend.stage_ms()
    stand_in.reset()
    backend.infer(pictures(5))
    elapsed = stand_in.count("cuEventElapsedTime")
    many = backend.stage_ms()
    backend.infer(pictures(1))
    few = backend.stage_ms()
say(before=before, elapsed=elapsed, many=many, few=few)
"""
    )
    assert answer["before"] == {}
    assert answer["elapsed"] == 3 * 3
    assert answer["few"]["h2d"] < answer["many"]["h2d"]


@pytest.mark.parametrize("graph", [False, True])
def test_everything_is_made_once_and_nothing_grows(graph: bool) -> None:
    answer = run(
        f"""
import os

MADE = ("cuMemAlloc", "cuMemHostAlloc", "cuStreamCreate", "cuEventCreate", "cuGraphInstantiateWithFlags")

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

with TrtBackend(plan(1), trt, cuda_graph={graph}) as backend:
    image = pictures(1)
    made, held = [stand_in.count(call) for call in MADE], stand_in.live()
    depths = set()
    for index in range(1100):
        if index == 100:
            start = resident()
        backend.infer(image)
        depths.add(stand_in.context_depth())
    grown = resident() - start
    same = [made == [stand_in.count(call) for call in MADE], held == stand_in.live(), depths == {{0}}]
say(same=same, grown=grown, made=made)
"""
    )
    assert answer["same"] == [True, True, True]
    assert answer["made"] == [2, 2, 1, 4, int(graph)]
    assert answer["grown"] < 2  # MiB; the stand-in's own log takes some of it


def test_memory_is_still_there_when_tensorrt_lets_go_of_it() -> None:
    answer = run(
        """
backend = TrtBackend(plan(1), trt)
backend.infer(pictures(1))
stand_in.reset()
backend.close()
say(calls=trt.module.calls, closed=stand_in.calls())
"""
    )
    assert answer["calls"] == [
        *("Runtime", "deserialize_cuda_engine", "create_execution_context", "set_tensor_address", "set_tensor_address"),
        *("execute_async_v3", "~IExecutionContext", "~ICudaEngine", "~Runtime"),
    ]
    assert "cuStreamSynchronize" in answer["closed"][: answer["closed"].index("cuMemFree")]
    assert answer["closed"][-1] == "cuDevicePrimaryCtxRelease"


@pytest.mark.parametrize("graph", [False, True])
def test_made_used_and_closed_on_three_threads(graph: bool) -> None:
    answer = run(
        f"""
backend = in_thread(lambda: TrtBackend(plan(2), trt, cuda_graph={graph}))
answers = [in_thread(lambda: right(backend, 3)), right(backend, 3), in_thread(lambda: right(backend, 1))]
in_thread(backend.close)
backend.close()
say(answers=answers, closed=refused(backend.infer, pictures(1)))
"""
    )
    assert answer == {"answers": [True] * 3, "closed": "this backend is closed; make a new one"}


def test_two_backends_at_once_on_two_threads() -> None:
    answer = run(
        """
other = make_tensorrt()
with TrtBackend(plan(1), trt) as one, TrtBackend(plan(3), other, cuda_graph=True) as two:
    answers = [in_thread(lambda: right(one)), right(two), right(one)]
    results = []
    threads = [threading.Thread(target=lambda backend=backend: results.append(
        all([right(backend) for _ in range(30)]))) for backend in (one, two)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
say(answers=answers, results=results, rules=other.module.violations)
"""
    )
    assert answer == {"answers": [True] * 3, "results": [True, True], "rules": []}


def test_what_is_not_network_input_is_refused_and_harms_nothing() -> None:
    answer = run(
        """
shapes = [(384, 384, 3), (0, 384, 384, 3), (1, 3, 384, 384), (1, 512, 512, 3)]
wrong = [np.zeros((1, 384, 384, 3), np.float32), *(np.zeros(shape, np.uint8) for shape in shapes)]
with TrtBackend(plan(1), trt) as backend:
    stand_in.reset()
    answers = [refused(backend.infer, images) for images in wrong * 2]
    say_calls = stand_in.calls()
    transposed = pictures(2)[:, ::-1].transpose(0, 2, 1, 3)
    scores = np.allclose(backend.infer(transposed), transposed.mean(axis=(1, 2, 3)), atol=1e-3)
    again = right(backend)
say(answers=answers, calls=say_calls, again=[bool(scores), again])
"""
    )
    assert all(text.startswith("expected uint8 (N, 384, 384, 3) with N >= 1, found ") for text in answer["answers"])
    assert answer["calls"] == []
    assert answer["again"] == [True, True]


@pytest.mark.parametrize(
    ("content", "faults", "message"),
    [
        ("b'garbage'", "", "TensorRT could not load the engine: IRuntime::deserializeCudaEngine: Error Code 1: "),
        ("plan(1, image=('OUTPUT', 'UINT8', (1, 384, 384, 3)))", "", "engine: expected image UINT8 [N, 384, 384, 3]"),
        ("plan(1, image=('INPUT', 'FLOAT', (1, 384, 384, 3)))", "", "engine: expected image UINT8 [N, 384, 384, 3]"),
        ("plan(1, image=('INPUT', 'UINT8', (1, 3, 384, 384)))", "", "engine: expected image UINT8 [N, 384, 384, 3]"),
        ("plan(1, image=('INPUT', 'UINT8', ()))", "", "engine: expected image UINT8 [N, 384, 384, 3]"),
        ("plan(1, image=None)", "", "engine: expected image UINT8 [N, 384, 384, 3]"),
        ("plan(2, score=('OUTPUT', 'FLOAT', (1,)))", "", "engine: expected image UINT8 [N, 384, 384, 3]"),
        ("plan(1, score=('OUTPUT', 'HALF', (1,)))", "", "engine: expected image UINT8 [N, 384, 384, 3]"),
        ("plan(1, mask=('OUTPUT', 'FLOAT', (1,)))", "", "engine: expected image UINT8 [N, 384, 384, 3]"),
        ("plan(-1)", "", "engine: expected image UINT8 [N, 384, 384, 3]"),
        ("plan(1)", "trt.module.fail('create_execution_context')", "TensorRT could not make an execution context, "),
        ("plan(1)", "trt.module.fail('set_tensor_address', False, skip=1)", "TensorRT took no address for score: "),
        (
            "plan(1)",
            "trt.module.fail('deserialize_cuda_engine', RuntimeError('out of\\nmemory'))",
            "TensorRT failed while loading the engine: out of memory",
        ),
        (
            "plan(1)",
            "stand_in.fail('cuMemAlloc', 2, times=2)",
            "CUDA failed while loading the engine: cuMemAlloc failed: out of memory",
        ),
        (
            "plan(1)",
            "stand_in.fail('cuMemAlloc', 2, skip=1, times=2)",
            "CUDA failed while loading the engine: cuMemAlloc failed: out of memory",
        ),
        (
            "plan(1)",
            "stand_in.fail('cuMemHostAlloc', 2, skip=1)",
            "CUDA failed while loading the engine: cuMemHostAlloc failed: out of memory",
        ),
        (
            "plan(1)",
            "stand_in.fail('cuEventCreate', 2, skip=2)",
            "CUDA failed while loading the engine: cuEventCreate failed: out of memory",
        ),
        (
            "plan(1)",
            "stand_in.fail('cuStreamCreate', 2)",
            "CUDA failed while loading the engine: cuStreamCreate failed: out of memory",
        ),
        (
            "plan(1)",
            "stand_in.fail('cuCtxPushCurrent', 201)",
            "CUDA failed while loading the engine: cuCtxPushCurrent failed: invalid device context",
        ),
        (
            "plan(1)",
            "stand_in.fail('cuDeviceGetName', 1)",
            "CUDA failed while loading the engine: cuDeviceGetName failed: invalid argument",
        ),
        ("plan(1)", "stand_in.fail('cuDevicePrimaryCtxRetain', 101)", "CUDA: expected GPU 0, found cuDevicePrimary"),
    ],
)
def test_what_fails_while_an_engine_is_loaded_leaves_nothing(content: str, faults: str, message: str) -> None:
    answer = run(
        f"""
{faults or "pass"}
try:
    TrtBackend({content}, trt)
except EngineError as error:  # kept: what its traceback holds must be released, too
    kept = error
    text = str(error)
say(text=text, lines=len(text.splitlines()))
"""
    )
    assert answer["text"].startswith(message)
    assert answer["lines"] == 1


def test_a_gpu_that_is_not_there() -> None:
    assert run("say(text=refused(TrtBackend, plan(1), trt, gpu=3))")["text"].startswith("CUDA: expected GPU 3, found ")


ONCE = {
    "stand_in.fail('cuMemcpyHtoDAsync', 1)": FAILED + "cuMemcpyHtoDAsync failed: invalid argument",
    "stand_in.fail('cuMemcpyDtoHAsync', 1)": FAILED + "cuMemcpyDtoHAsync failed: invalid argument",
    "stand_in.fail('cuEventRecord', 1)": FAILED + "cuEventRecord failed: invalid argument",
    "stand_in.fail('cuEventRecord', 1, skip=2)": FAILED + "cuEventRecord failed: invalid argument",  # work is under way
    "stand_in.fail('cuStreamSynchronize', 719)": FAILED + "cuStreamSynchronize failed: unspecified launch failure",
    "stand_in.fail('cuEventElapsedTime', 1)": FAILED + "cuEventElapsedTime failed: invalid argument",
    "stand_in.fail('cuMemcpyHtoDAsync', 1, skip=1)": FAILED + "cuMemcpyHtoDAsync failed: invalid argument",
    "trt.module.fail('execute_async_v3', False)": "TensorRT refused to run: no reason given",
    "trt.module.fail('execute_async_v3', RuntimeError('a\\nb'))": "TensorRT failed while scoring: a b",
}


@pytest.mark.parametrize("fault", ONCE)
def test_an_error_releases_everything_and_the_next_call_recovers(fault: str) -> None:
    answer = run(
        f"""
with TrtBackend(plan(1), trt) as backend:
    before = right(backend)
    {fault}
    try:
        backend.infer(pictures(2))
    except EngineError as error:  # kept: what its traceback holds must be released, too
        kept = error
    after_fault = left()
    again = [right(backend), right(backend, 3)]
    {fault}
    second = refused(backend.infer, pictures(2))  # the first of its own row
    again.append(right(backend))
say(text=str(kept), second=second, before=before, after_fault=after_fault, again=again)
"""
    )
    assert answer["text"] == answer["second"] == ONCE[fault]
    assert answer["after_fault"] == NOTHING
    assert [answer["before"], *answer["again"]] == [True] * 4


def test_after_two_errors_in_a_row_nothing_is_tried_any_more() -> None:
    answer = run(
        """
backend = TrtBackend(plan(1), trt)
stand_in.fail("cuMemcpyHtoDAsync", 1, times=2)
texts = [refused(backend.infer, pictures(1)) for _ in range(2)]
stand_in.reset()
calls = len(trt.module.calls)
texts += [refused(backend.infer, pictures(1)) for _ in range(2)]
untouched = [stand_in.calls(), len(trt.module.calls) - calls]
backend.close()
backend.close()
say(texts=texts, untouched=untouched)
"""
    )
    dead = "the GPU failed twice in a row; restart the process, or the machine"
    assert answer["texts"] == [ONCE["stand_in.fail('cuMemcpyHtoDAsync', 1)"]] * 2 + [dead] * 2
    assert answer["untouched"] == [[], 0]


def test_a_run_that_does_not_end_is_an_error_and_waits_for_nothing() -> None:
    """The GPU never says that it is done: nothing that waits for it is called, and the process still ends."""
    done = process_on_stand_in(
        START
        + """
import time
backend = TrtBackend(plan(2), trt, longest_s=0.05)
whole = right(backend)
stand_in.reset()
stand_in.fail("cuEventQuery", 600, sticky=True)  # CUDA_ERROR_NOT_READY, from now on
began = time.monotonic()
texts = [refused(backend.infer, pictures(2)) for _ in range(2)]
backend.close()
waits = ("cuStreamSynchronize", "cuMemFreeHost", "cuMemFree", "cuCtxSynchronize")
waiting = [name for name in stand_in.calls() if name in waits]
print(json.dumps([whole, texts, time.monotonic() - began < 30, waiting, stand_in.context_depth()]), flush=True)
"""
    )
    assert done.returncode == 0, done.stderr
    whole, texts, in_time, waits, depth = json.loads(done.stdout.splitlines()[-1])
    assert whole and in_time
    assert texts[0].startswith("TensorRT did not end within 0.1 s of one inference")
    assert texts[1] == "a run on the GPU did not end; restart the process, or the machine"
    assert (waits, depth) == ([], 0)


def test_a_recovery_that_fails_counts_as_the_second_error() -> None:
    answer = run(
        """
backend = TrtBackend(plan(1), trt)
stand_in.fail("cuMemcpyHtoDAsync", 1)
trt.module.fail("create_execution_context")
texts = [refused(backend.infer, pictures(1)) for _ in range(3)]
backend.close()
say(texts=texts)
"""
    )
    assert [text.split()[:3] for text in answer["texts"]] == [
        *(["CUDA", "failed", "while"], ["TensorRT", "could", "not"], ["the", "GPU", "failed"])
    ]


STICKY = """
backend = TrtBackend(plan(1), trt, cuda_graph=GRAPH)
stand_in.fail("cuStreamSynchronize", 700, sticky=True)
text = refused(backend.infer, pictures(1))
after_fault = stand_in.live()
again = right(backend)
backend.close()
print(json.dumps([text, after_fault, again, left()]))
"""


@pytest.mark.parametrize("graph", [False, True])
def test_an_error_that_breaks_the_context_is_mended_by_a_new_one(graph: bool) -> None:
    text, after_fault, again, (live, _, violations, depth) = on_stand_in(START + STICKY.replace("GRAPH", str(graph)))
    assert text == FAILED + "cuStreamSynchronize failed: an illegal memory access was encountered"
    assert (after_fault, again, live, violations, depth) == ({}, True, {}, [], 0)


def test_an_interruption_from_the_keyboard_releases_everything_and_passes() -> None:
    answer = run(
        """
from tensorrt_stand_in import IExecutionContext

original = IExecutionContext.execute_async_v3
def interrupted(self, handle):
    original(self, handle)
    raise KeyboardInterrupt

with TrtBackend(plan(1), trt) as backend:
    IExecutionContext.execute_async_v3 = interrupted
    try:
        backend.infer(pictures(1))
    except KeyboardInterrupt as error:
        kept = error
    after = left()
    IExecutionContext.execute_async_v3 = original
    again = right(backend)
say(after=after, again=again)
"""
    )
    assert answer == {"after": NOTHING, "again": True}


def test_an_error_on_the_way_out_of_the_context_releases_everything_too() -> None:
    answer = run(
        """
with TrtBackend(plan(1), trt) as backend:
    stand_in.fail("cuMemcpyDtoHAsync", 1)
    stand_in.fail("cuCtxPopCurrent", 1)
    try:
        backend.infer(pictures(1))
    except EngineError as error:
        kept = error
    after = left()
    again = right(backend)
    pushed = stand_in.context_depth()
    import pycuda.driver
    while stand_in.context_depth():  # what a pop that failed has left
        pycuda.driver.Context.pop()
say(text=str(kept), after=after, again=again)
"""
    )
    assert answer["text"] == FAILED + "cuCtxPopCurrent failed: invalid argument"
    assert answer["after"][:3] == NOTHING[:3]
    assert answer["again"]


def test_an_error_that_is_being_handled_already_is_left_alone() -> None:
    answer = run(
        """
def earlier():
    witness = 7
    raise ValueError

with TrtBackend(plan(1), trt) as backend:
    try:
        earlier()
    except ValueError as outer:
        stand_in.fail("cuMemcpyDtoHAsync", 1)
        text = refused(backend.infer, pictures(1))
        variables = outer.__traceback__.tb_next.tb_frame.f_locals
say(text=text, variables=variables)
"""
    )
    assert answer == {"text": FAILED + "cuMemcpyDtoHAsync failed: invalid argument", "variables": {"witness": 7}}


def test_the_scorer_reports_an_engine_fault_and_goes_on() -> None:
    answer = run(
        """
from importlib.resources import files
from fthnet_kit.edge import ModelCard, QualityScorer
from fthnet_kit.edge.model.bundle import shipped_bundle
from fthnet_kit.edge.formats.read import read_image

image = read_image(files("fthnet_kit.edge") / "assets" / "retina.jpg")
card = ModelCard.read(shipped_bundle() / "model_card.json")
with QualityScorer(card, TrtBackend(plan(1), trt)) as scorer:
    scores = [scorer.score(image)]
    stand_in.fail("cuMemcpyDtoHAsync", 719)
    scores += [scorer.score(image), scorer.score(image)]
with QualityScorer(card, TrtBackend(plan(1, float("nan")), trt)) as scorer:
    scores += [scorer.score(image), scorer.score(image)]
say(scores=[[score.value, score.reason, sorted(score.stage_ms)] for score in scores])
"""
    )
    first, fault, again, *nan = answer["scores"]
    stages = {"h2d", "gpu_compute", "d2h", "enqueue", "infer"}
    assert first[0] == again[0] is not None
    assert stages <= set(first[2])
    assert stages <= set(again[2])
    assert fault[:2] == [None, "engine_fault"]
    assert not stages & set(fault[2])
    assert [score[:2] for score in nan] == [[None, "engine_fault"]] * 2


def test_asking_what_this_machine_is_leaves_nothing() -> None:
    answer = run(
        """
from dataclasses import asdict
from fthnet_kit.edge.inference.open_backend import this_target

say(target=asdict(this_target(trt)), made=[stand_in.count("cuMemAlloc"), stand_in.count("cuDevicePrimaryCtxRetain")])
"""
    )
    assert answer["target"] == {
        "library": "tensorrt",
        "library_version": "10.3",
        "compute_capability": "8.7",
        "gpu": "CUDA stand-in (host memory)",
        "multiprocessors": 8,
    }
    assert answer["made"] == [0, 1]


def test_any_sequence_of_scores_faults_and_closes_ends_with_nothing_left() -> None:
    answer = run(
        """
FAULTS = ["cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuEventRecord", "cuStreamSynchronize", "cuMemAlloc",
          "cuMemHostAlloc", "cuStreamCreate", "cuGraphLaunch", "cuStreamEndCapture", "cuCtxPushCurrent"]
wrong = []
for trial in range(150):
    stand_in.reset()
    graph = bool(rng.integers(2))
    backend = TrtBackend(plan(int(rng.integers(1, 4))), trt, cuda_graph=graph)
    steps, in_a_row = [], 0
    for _ in range(rng.integers(1, 7)):
        if rng.random() < 0.4:
            call = FAULTS[rng.integers(len(FAULTS))]
            times = 2 if call == "cuMemAlloc" else 1
            stand_in.fail(call, 2, times=times, skip=int(rng.integers(3)))
            steps.append(call)
        try:
            steps.append(right(backend, int(rng.integers(1, 5))))
            in_a_row = 0
        except EngineError as error:
            steps.append(str(error))
            in_a_row += 1
        if steps[-1] is False or stand_in.context_depth() or (in_a_row > 2) != ("twice" in str(steps[-1])):
            wrong.append(steps)
    stand_in.reset()
    backend.close()
    if stand_in.live() or stand_in.abandoned() or trt.module.violations:
        wrong.append([steps, left()])
say(wrong=wrong)
"""
    )
    assert answer["wrong"] == []


GRAPH_CALLS = {
    "cuStreamBeginCapture": "cuStreamBeginCapture_v2",
    "cuStreamEndCapture": "cuStreamEndCapture",
    "cuGraphInstantiateWithFlags": "cuGraphInstantiateWithFlags",
}


@pytest.mark.parametrize("call", GRAPH_CALLS)
def test_a_graph_that_cannot_be_made_is_refused_and_says_how_to_go_on(call: str) -> None:
    answer = run(
        f"""
stand_in.fail({call!r}, 2)
text = refused(TrtBackend, plan(1), trt, cuda_graph=True)
after = left()
with TrtBackend(plan(1), trt) as backend:
    without = right(backend)
with TrtBackend(plan(1), trt, cuda_graph=True) as backend:
    later = right(backend)
say(text=text, after=after, answers=[without, later])
"""
    )
    assert answer["text"] == f"CUDA graph: {GRAPH_CALLS[call]} failed: out of memory{HINT}"
    assert answer["after"] == NOTHING
    assert answer["answers"] == [True, True]


@pytest.mark.parametrize(
    ("answer", "text"),
    [("False", "TensorRT refused to run: no reason given"), ("RuntimeError('unfit')", "unfit")],
)
def test_an_engine_that_refuses_to_be_recorded(answer: str, text: str) -> None:
    found = run(
        f"""
trt.module.fail("execute_async_v3", {answer}, skip=1)
say(text=refused(TrtBackend, plan(1), trt, cuda_graph=True), ended=stand_in.count("cuStreamEndCapture"))
"""
    )
    assert found == {"text": f"CUDA graph: not recorded: {text}{HINT}", "ended": 1}


def test_an_engine_that_waits_while_it_is_recorded_spoils_the_graph() -> None:
    answer = run(
        """
import ctypes
from tensorrt_stand_in import IExecutionContext

original = IExecutionContext.execute_async_v3
def waiting(self, handle):
    return original(self, handle) and ctypes.CDLL("libcuda.so.1").cuCtxSynchronize() >= 0

IExecutionContext.execute_async_v3 = waiting
say(text=refused(TrtBackend, plan(1), trt, cuda_graph=True))
"""
    )
    end = "CUDA graph: cuStreamEndCapture failed: operation failed due to a previous error during capture"
    assert answer["text"] == end + HINT


def test_the_engine_has_run_and_is_idle_before_it_is_recorded() -> None:
    answer = run(
        """
backend = TrtBackend(plan(1), trt, cuda_graph=True)
calls = [call for call in stand_in.calls() if "Capture" in call or "Graph" in call or call == "cuStreamSynchronize"]
order = trt.module.calls[3:]
stand_in.reset()
backend.close()
say(calls=calls, order=order, closed=stand_in.calls())
"""
    )
    assert answer["order"] == [
        *("set_tensor_address", "set_tensor_address", "is_stream_capturable", "execute_async_v3", "execute_async_v3")
    ]
    assert answer["calls"] == [
        *("cuStreamSynchronize", "cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiateWithFlags")
    ]
    closed = answer["closed"]
    assert closed.index("cuGraphExecDestroy") < closed.index("cuGraphDestroy") < closed.index("cuMemFree")


def test_an_engine_that_cannot_be_recorded_is_refused_before_it_is_tried() -> None:
    answer = run(
        """
trt.module.fail("is_stream_capturable", False)
text = refused(TrtBackend, plan(1), trt, cuda_graph=True)
say(text=text, calls=[call for call in stand_in.calls() if "Capture" in call], after=left())
"""
    )
    assert answer["text"].startswith("CUDA graph: TensorRT says that this engine cannot be recorded")
    assert answer["text"].endswith(HINT)
    assert (answer["calls"], answer["after"]) == ([], NOTHING)


def test_a_tensorrt_that_cannot_be_asked_is_not_asked() -> None:
    answer = run(
        """
from tensorrt_stand_in import IExecutionContext
del IExecutionContext.is_stream_capturable
with TrtBackend(plan(1), trt, cuda_graph=True) as backend:
    answer = right(backend)
say(right=answer)
"""
    )
    assert answer["right"]


def test_a_launch_that_fails_is_an_error_like_any_other() -> None:
    answer = run(
        """
with TrtBackend(plan(1), trt, cuda_graph=True) as backend:
    stand_in.fail("cuGraphLaunch", 719)
    text = refused(backend.infer, pictures(1))
    after = left()
    again = right(backend)
say(text=text, after=after, again=again)
"""
    )
    assert answer["text"] == f"CUDA graph: cuGraphLaunch failed: unspecified launch failure{HINT}"
    assert (answer["after"], answer["again"]) == (NOTHING, True)


@pytest.mark.parametrize("call", ["cuGraphExecDestroy", "cuGraphDestroy"])
def test_a_graph_that_cannot_be_released_keeps_nothing_else_alive(call: str) -> None:
    live, abandoned, violations, depth = on_stand_in(
        START
        + f"""
backend = TrtBackend(plan(1), trt, cuda_graph=True)
stand_in.fail({call!r}, 1)
backend.close()
print(json.dumps(left()))
"""
    )
    kind = {"cuGraphExecDestroy": "executable_graph", "cuGraphDestroy": "graph"}[call]
    assert (live, abandoned, violations, depth) == ({}, {kind: 1}, [], 0)  # gone with its context


def test_a_driver_without_graphs_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    old = SimpleNamespace(cuStreamBeginCapture_v2=SimpleNamespace(), cuStreamEndCapture=SimpleNamespace())
    monkeypatch.setattr(ctypes, "CDLL", lambda name: old)
    with pytest.raises(EngineError, match=r"CUDA graph: expected CUDA 11\.4 or newer, found .*without cuda_graph"):
        cuda_graph.CudaGraph(1, lambda: None)
