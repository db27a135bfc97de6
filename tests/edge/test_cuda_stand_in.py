"""The CUDA stand-in itself: real PyCUDA runs on it, and it notices what a program does wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cuda_stand_in.rig import build_driver, compiler, on_stand_in, process_on_stand_in

pytestmark = pytest.mark.slow

OPEN = """
import pycuda.driver as cuda, stand_in

cuda.init()
device = cuda.Device(0)
context = device.retain_primary_context()
context.push()

def close():
    cuda.Context.pop()
    context.detach()

def refused(call):
    try:
        call()
    except cuda.Error as error:
        return [type(error).__name__, str(error)]

def in_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
"""


def test_the_driver_compiles_without_a_warning(tmp_path: Path) -> None:
    if compiler() is None:
        pytest.skip("no C compiler")
    assert build_driver(tmp_path) == ""


@pytest.mark.skipif(compiler() is None, reason="no C compiler")
def test_a_call_that_the_driver_does_not_have_says_so(tmp_path: Path) -> None:
    build_driver(tmp_path)
    script = f"import ctypes; print(ctypes.CDLL({str(tmp_path / 'libcuda.so.1')!r}).cuModuleLoadData(None, None))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)  # its driver stays its own
    assert done.stdout == "801\n", done.stderr


def test_the_device_reads_as_an_orin_and_names_itself() -> None:
    answer = on_stand_in(
        OPEN
        + """
capability = [device.get_attribute(getattr(cuda.device_attribute, f"COMPUTE_CAPABILITY_{part}"))
              for part in ("MAJOR", "MINOR")]
print(json.dumps([device.name(), device.compute_capability(), capability, cuda.get_driver_version()]))
close()
"""
    )
    assert answer == ["CUDA stand-in (host memory)", [8, 7], [8, 7], 13000]


def test_an_array_goes_to_the_device_and_back_and_nothing_is_left() -> None:
    answer = on_stand_in(
        OPEN
        + """
sent = cuda.pagelocked_empty((3, 4), np.float32)
received = cuda.pagelocked_empty((3, 4), np.float32)
memory = cuda.mem_alloc(sent.nbytes)
stream, start, end = cuda.Stream(), cuda.Event(), cuda.Event()
held = stand_in.live()
sent[:] = np.arange(12).reshape(3, 4)
start.record(stream)
cuda.memcpy_htod_async(memory, sent, stream)
cuda.memcpy_dtoh_async(received, memory, stream)
end.record(stream)
end.synchronize()
values, milliseconds = received.tolist(), start.time_till(end)
del start, end, stream
memory.free()
sent.base.free()
received.base.free()
close()
print(json.dumps([values, milliseconds, held, stand_in.live(), stand_in.abandoned(), stand_in.count("cuMemAlloc")]))
"""
    )
    values, milliseconds, held, left, abandoned, allocations = answer
    assert values == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert 0 <= milliseconds < 1000
    assert held == {"device_memory": 1, "pinned_memory": 2, "stream": 1, "event": 2, "primary_context": 1}
    assert left == abandoned == {}
    assert allocations == 1


def test_a_result_that_is_read_too_early_is_not_there() -> None:
    answer = on_stand_in(
        OPEN
        + """
host, memory, stream = cuda.pagelocked_zeros(4, np.uint8), cuda.mem_alloc(4), cuda.Stream()
fresh = np.empty(4, np.uint8)
cuda.memcpy_dtoh(fresh, memory)
cuda.memset_d8_async(memory, 7, 4, stream)
cuda.memcpy_dtoh_async(host, memory, stream)
early, done = host.tolist(), stream.is_done()
stream.synchronize()
print(json.dumps([fresh.tolist(), early, done, host.tolist()]))
del stream, memory, host
close()
"""
    )
    assert answer == [[0xCD] * 4, [0] * 4, False, [7] * 4]


def test_streams_wait_for_one_another_only_through_events() -> None:
    answer = on_stand_in(
        OPEN
        + """
def copy_on_two_streams(with_event):
    first, second, filled = cuda.Stream(), cuda.Stream(), cuda.Event()
    memory, host = cuda.mem_alloc(1), cuda.pagelocked_empty(1, np.uint8)
    cuda.memset_d8_async(memory, 7, 1, first)
    filled.record(first)
    if with_event:
        second.wait_for_event(filled)
    cuda.memcpy_dtoh_async(host, memory, second)
    second.synchronize()
    return int(host[0])

print(json.dumps([copy_on_two_streams(False), copy_on_two_streams(True)]))
close()
"""
    )
    assert answer == [0xCD, 7]


def test_a_test_can_bring_its_own_kernel() -> None:
    answer = on_stand_in(
        OPEN
        + """
import ctypes
host, memory, stream = cuda.pagelocked_empty(4, np.float32), cuda.mem_alloc(16), cuda.Stream()
host[:] = 1
cuda.memcpy_htod_async(memory, host, stream)
stand_in.run(stream.handle)
np.ctypeslib.as_array((ctypes.c_float * 4).from_address(int(memory)))[:] += 1
cuda.memcpy_dtoh_async(host, memory, stream)
stream.synchronize()
print(json.dumps(host.tolist()))
del stream, memory, host
close()
"""
    )
    assert answer == [2, 2, 2, 2]


def test_a_thread_without_the_context_cannot_use_the_device() -> None:
    answer = on_stand_in(
        OPEN
        + """
answers = {}

def work(name, push):
    if push:
        context.push()
    answers[name] = [stand_in.context_depth(), refused(lambda: cuda.mem_alloc(8)), refused(cuda.Context.synchronize)]
    if push:
        cuda.Context.pop()

in_thread(lambda: work("without", False))
in_thread(lambda: work("with", True))
work("here", False)
close()
print(json.dumps(answers))
"""
    )
    no_context = [
        ["LogicError", "cuMemAlloc failed: invalid device context"],
        ["LogicError", "cuCtxSynchronize failed: invalid device context"],
    ]
    assert answer == {"without": [0, *no_context], "with": [1, None, None], "here": [1, None, None]}


def test_memory_dropped_on_a_thread_without_the_context_is_seen_as_leaked() -> None:
    answer = on_stand_in(
        OPEN
        + """
held = [cuda.mem_alloc(8)]
warnings.simplefilter("ignore")  # PyCUDA: "in out-of-thread context could not be cleaned up"
in_thread(held.clear)
before = stand_in.live()
close()
print(json.dumps([before, stand_in.live(), stand_in.abandoned()]))
"""
    )
    assert answer == [{"device_memory": 1, "primary_context": 1}, {}, {"device_memory": 1}]


def test_a_second_free_and_a_copy_beyond_the_end_are_refused() -> None:
    answer = on_stand_in(
        OPEN
        + """
import ctypes
driver = ctypes.CDLL("libcuda.so.1")
memory = cuda.mem_alloc(16)
address = ctypes.c_uint64(int(memory))
beyond = refused(lambda: cuda.memcpy_htod(memory, np.zeros(17, np.uint8)))
memory.free()
print(json.dumps([beyond, driver.cuMemFree_v2(address), driver.cuMemFreeHost(ctypes.c_void_p(64)),
                  refused(memory.free)]))
close()
"""
    )
    assert answer[:3] == [["LogicError", "cuMemcpyHtoD failed: invalid argument"], 1, 1]
    assert answer[3] == ["LogicError", "device_allocation::free failed: invalid resource handle"]


def test_pinned_memory_is_gone_after_its_release() -> None:
    done = process_on_stand_in(OPEN + "a = cuda.pagelocked_empty(4, np.float32); a.base.free(); close(); print(a[0])")
    assert done.returncode == -11, done.stderr  # as with the real driver, which unmaps it


def test_a_failure_can_be_injected_once_and_after_some_successes() -> None:
    answer = on_stand_in(
        OPEN
        + """
stand_in.fail("cuMemHostAlloc", 2, skip=1)
answers = [refused(lambda: cuda.pagelocked_empty(8, np.uint8)) for _ in range(3)]
print(json.dumps([answers, stand_in.count("cuMemHostAlloc"), stand_in.live()]))
close()
"""
    )
    assert answer == [[None, ["MemoryError", "cuMemHostAlloc failed: out of memory"], None], 3, {"primary_context": 1}]


def test_device_memory_runs_out() -> None:
    answer = on_stand_in(
        OPEN
        + """
_, total = cuda.mem_get_info()
too_much = refused(lambda: cuda.mem_alloc(total + 1))
stand_in.reset()
stand_in.fail("cuMemAlloc", 2)
once = refused(lambda: cuda.mem_alloc(8))
stand_in.fail("cuMemAlloc", 2, times=2)
twice = refused(lambda: cuda.mem_alloc(8))
print(json.dumps([too_much, once, twice, stand_in.count("cuMemAlloc")]))
close()
"""
    )
    out_of_memory = ["MemoryError", "cuMemAlloc failed: out of memory"]
    assert answer == [out_of_memory, None, out_of_memory, 4]  # PyCUDA collects garbage and tries a second time


def test_a_sticky_failure_lasts_until_the_context_is_released() -> None:
    answer = on_stand_in(
        OPEN
        + """
stream = cuda.Stream()
stand_in.fail("cuStreamSynchronize", 700, sticky=True)
answers = [refused(stream.synchronize), refused(lambda: cuda.mem_alloc(8)), refused(cuda.Context.synchronize)]
del stream
close()
context = device.retain_primary_context()
context.push()
print(json.dumps([answers, stand_in.abandoned(), refused(cuda.Context.synchronize)]))
close()
"""
    )
    broken = [
        ["LogicError", f"{call} failed: an illegal memory access was encountered"]
        for call in ("cuStreamSynchronize", "cuMemAlloc", "cuCtxSynchronize")
    ]
    assert answer == [broken, {"stream": 1}, None]


def test_calls_are_logged_in_order() -> None:
    answer = on_stand_in(
        OPEN
        + """
stand_in.reset()
cuda.mem_alloc(8).free()
close()
print(json.dumps(stand_in.calls()))
"""
    )
    release = ["cuCtxPopCurrent", "cuCtxPushCurrent", "cuDevicePrimaryCtxRelease"]  # PyCUDA pushes to release
    assert answer == ["cuMemAlloc", "cuMemFree", *release]


GRAPH = """
import ctypes
driver = ctypes.CDLL("libcuda.so.1")
stream, source, target = cuda.Stream(), cuda.mem_alloc(6), cuda.mem_alloc(8)
host = cuda.pagelocked_empty(2, np.float32)
graph, executable, handle = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p(stream.handle)

def launch_mean():
    return stand_in.launch_mean(stream.handle, int(target), int(source), 2, 3)

def begin(mode=1):
    return driver.cuStreamBeginCapture_v2(handle, mode)

def end():
    return driver.cuStreamEndCapture(handle, ctypes.byref(graph))

def instantiate():
    return driver.cuGraphInstantiateWithFlags(ctypes.byref(executable), graph, ctypes.c_ulonglong(0))

def result():
    cuda.memcpy_dtoh_async(host, target, stream)
    stream.synchronize()
    return host.tolist()

def fill(values):
    cuda.memcpy_htod(source, np.array(values, np.uint8))

def finish():
    global stream, host
    host = stream = None
    source.free()
    target.free()
    close()
    return [stand_in.live(), stand_in.abandoned()]
"""


def test_a_kernel_runs_when_somebody_waits_and_needs_device_memory() -> None:
    answer = on_stand_in(
        OPEN
        + GRAPH
        + """
fill([1, 2, 3, 10, 20, 30])
launched, waiting = launch_mean(), stand_in.kernels_waiting()
means = result()
beyond = stand_in.launch_mean(stream.handle, int(target), int(source), 2, 4)
holds = [stand_in.holds(int(source)), stand_in.holds(int(source) + 6)]
answer = [launched, waiting, stand_in.kernels_waiting(), means, beyond, holds]
print(json.dumps([*answer, finish(), stand_in.launch_mean(0, 0, 0, 1, 1)]))
"""
    )
    assert answer == [0, 1, 0, [2, 20], 1, [True, False], [{}, {}], 201]


def test_a_captured_stream_records_its_work_and_a_graph_repeats_it() -> None:
    answer = on_stand_in(
        OPEN
        + GRAPH
        + """
cuda.memset_d8(target, 0, 8)
codes = [begin(), launch_mean(), end()]
untouched = result()
codes.append(instantiate())
held, means = stand_in.live(), []
for values in ([1, 2, 3, 4, 5, 6], [7, 7, 7, 9, 9, 9]):
    fill(values)
    codes.append(driver.cuGraphLaunch(executable, handle))
    means.append(result())
codes += [driver.cuGraphExecDestroy(executable), driver.cuGraphDestroy(graph), driver.cuGraphDestroy(graph)]
print(json.dumps([codes, untouched, means, held["graph"], held["executable_graph"], finish()]))
"""
    )
    assert answer == [[0] * 8 + [1], [0, 0], [[2, 5], [7, 9]], 1, 1, [{}, {}]]


def test_what_must_not_happen_during_a_capture_spoils_it() -> None:
    answer = on_stand_in(
        OPEN
        + GRAPH
        + """
event = cuda.Event()
spoilers = [stream.synchronize, stream.is_done, cuda.Context.synchronize, lambda: cuda.mem_alloc(8),
            lambda: event.record(stream), lambda: cuda.memset_d8(target, 0, 8)]
answers = []
for spoil in spoilers:
    begin()
    answers.append([refused(spoil)[1].partition(": ")[2], end(), graph.value])
del event, spoil, spoilers
print(json.dumps([answers, end(), finish()]))
"""
    )
    answers, without_capture, left = answer
    forbidden = "operation not permitted when stream is capturing"
    implicit = "operation would make the legacy stream depend on a capturing blocking stream"
    assert answers == [[forbidden, 901, None]] * 5 + [[implicit, 901, None]]
    assert without_capture == 401
    assert left == [{}, {}]


def test_the_mode_of_a_capture_says_which_threads_may_disturb_it() -> None:
    answer = on_stand_in(
        OPEN
        + GRAPH
        + """
def allocate():
    context.push()
    try:
        cuda.mem_alloc(8).free()
    except cuda.Error:
        pass
    cuda.Context.pop()

def end_elsewhere():
    context.push()
    codes.append(end())
    cuda.Context.pop()

codes = []
for mode in (0, 1, 2):  # global, thread local, relaxed
    begin(mode)
    in_thread(allocate)
    codes.append(end())
    driver.cuGraphDestroy(graph)
begin(1)
in_thread(end_elsewhere)
codes.append(end())
driver.cuGraphDestroy(graph)
begin(2)
in_thread(end_elsewhere)
driver.cuGraphDestroy(graph)
print(json.dumps([codes, finish()]))
"""
    )
    assert answer == [[901, 0, 0, 908, 0, 0], [{}, {}]]


def test_a_graph_whose_memory_is_gone_breaks_the_context() -> None:
    answer = on_stand_in(
        OPEN
        + GRAPH
        + """
begin()
launch_mean()
end()
instantiate()
source.free()
print(json.dumps([driver.cuGraphLaunch(executable, handle), refused(stream.synchronize)]), flush=True)
import os
os._exit(0)  # everything else fails from here on
"""
    )
    text = "cuStreamSynchronize failed: an illegal memory access was encountered"
    assert answer == [0, ["LogicError", text]]
