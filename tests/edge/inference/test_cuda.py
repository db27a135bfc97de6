"""Memory, events, threads and CUDA graphs on a real CUDA driver, with a kernel of our own: no TensorRT is needed.

    pytest -m gpu tests/edge/inference/test_cuda.py

Any GPU that PTX for compute capability 7.0 runs on, and any driver from CUDA 11.4 on. Where there is none the same
tests run on the driver that lives in host memory (`test_cuda_on_stand_in.py`), which proves the tests, not the GPU.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from fthnet_kit.edge.errors import EngineError, KitError
from fthnet_kit.edge.inference.cuda_graph import CudaGraph
from fthnet_kit.edge.inference.cuda_memory import Gpu

pytestmark = pytest.mark.gpu

COUNT = 1 << 18
BLOCK = 256
MIB = 1 << 20
NOISE_MIB = 32  # others use the GPU, too, and on a Jetson it shares the machine's memory

# data[i] *= factor, for `count` float32. As text, so that the driver compiles it: no compiler, no CUDA toolkit.
PTX = b"""
.version 6.0
.target sm_70
.address_size 64

.visible .entry scale(.param .u64 data, .param .f32 factor, .param .u32 count)
{
    .reg .pred %p<2>;
    .reg .b32 %r<6>;
    .reg .f32 %f<4>;
    .reg .b64 %rd<5>;
    ld.param.u64 %rd1, [data];
    ld.param.f32 %f1, [factor];
    ld.param.u32 %r1, [count];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra DONE;
    cvta.to.global.u64 %rd2, %rd1;
    mul.wide.u32 %rd3, %r5, 4;
    add.s64 %rd4, %rd2, %rd3;
    ld.global.f32 %f2, [%rd4];
    mul.f32 %f3, %f2, %f1;
    st.global.f32 [%rd4], %f3;
DONE:
    ret;
}
"""


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    try:
        gpu = Gpu()
    except KitError as error:
        pytest.skip(f"no CUDA GPU with pycuda: {error}")
    try:
        yield gpu
    finally:
        gpu.close()


class Scaling:
    """A tensor on the GPU, a stream, and the kernel that scales it: ``with gpu, Scaling(gpu) as work:``."""

    def __init__(self, gpu: Gpu, count: int = COUNT) -> None:
        self.driver = gpu.driver
        self.module = self.driver.module_from_buffer(PTX + b"\0")
        self.kernel = self.module.get_function("scale")
        self.stream = gpu.stream()
        self.pair = gpu.pair((count,), np.float32)
        self.pair.host[:] = np.arange(count) % 97

    def __enter__(self) -> Scaling:
        return self

    def __exit__(self, *_: object) -> None:
        self.kernel = self.module = self.stream = self.pair = None  # they go in their context, before it does

    def upload(self) -> None:
        self.driver.memcpy_htod_async(self.pair.device, self.pair.host, self.stream)

    def scale(self, factor: float) -> None:
        count = len(self.pair.host)
        arguments = (self.pair.device, np.float32(factor), np.uint32(count))
        self.kernel(*arguments, block=(BLOCK, 1, 1), grid=(-(-count // BLOCK), 1), stream=self.stream)

    def result(self) -> np.ndarray:
        self.driver.memcpy_dtoh_async(self.pair.host, self.pair.device, self.stream)
        self.stream.synchronize()
        return self.pair.host.copy()


def expected(factor: float, count: int = COUNT) -> np.ndarray:
    return (np.arange(count) % 97 * factor).astype(np.float32)  # powers of two: exact


def on_thread(work: Callable[[], Any]) -> Any:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(work()))
    thread.start()
    thread.join()
    assert answers, "the thread ended with an error"
    return answers[0]


def test_the_gpu_says_what_it_is(gpu: Gpu) -> None:
    assert gpu.name
    assert gpu.multiprocessors > 0
    major, minor = map(int, gpu.compute_capability.split("."))
    assert (major, minor) >= (5, 0)
    assert float(gpu.cuda_version) >= 11.4
    with gpu:
        assert gpu.free_mib() > 0


@pytest.mark.parametrize("count", [1, 255, 256, 257, COUNT])
def test_a_tensor_goes_to_the_gpu_and_comes_back_scaled(gpu: Gpu, count: int) -> None:
    with gpu, Scaling(gpu, count) as work:
        work.upload()
        work.scale(4.0)
        np.testing.assert_array_equal(work.result(), expected(4.0, count))


def test_events_measure_what_lies_between_them(gpu: Gpu) -> None:
    with gpu, Scaling(gpu) as work:
        before, between, after = gpu.event(), gpu.event(), gpu.event()
        work.upload()
        before.record(work.stream)
        for _ in range(20):
            work.scale(1.0)
        between.record(work.stream)
        work.scale(1.0)
        after.record(work.stream)
        work.stream.synchronize()
        many, all_of_it = before.time_till(between), before.time_till(after)
        assert 0 <= many <= all_of_it
        assert all_of_it == pytest.approx(many + between.time_till(after), abs=0.01)  # resolution 0.5 us, twice
        del before, between, after


def test_a_graph_repeats_what_was_recorded_and_recording_runs_nothing(gpu: Gpu) -> None:
    with gpu, Scaling(gpu) as work:
        work.upload()
        work.scale(1.0)  # the driver loads the kernel at its first launch, which must not be recorded
        work.stream.synchronize()
        graph = CudaGraph(work.stream.handle, lambda: work.scale(2.0))
        np.testing.assert_array_equal(work.result(), expected(1.0))
        for _ in range(3):
            graph.launch()
        np.testing.assert_array_equal(work.result(), expected(8.0))
        graph.close()
        graph.close()


def test_a_graph_reads_its_memory_anew_at_every_launch(gpu: Gpu) -> None:
    with gpu, Scaling(gpu) as work:
        work.upload()
        work.scale(1.0)
        work.stream.synchronize()
        graph = CudaGraph(work.stream.handle, lambda: work.scale(2.0))
        work.pair.host[:] = 3.0
        work.upload()
        graph.launch()
        assert set(work.result()) == {6.0}
        graph.close()


def test_work_that_cannot_be_recorded_leaves_a_stream_that_works(gpu: Gpu) -> None:
    with gpu, Scaling(gpu) as work:
        work.upload()
        work.scale(1.0)
        work.stream.synchronize()
        with pytest.raises(EngineError, match=r"CUDA graph: not recorded: .*without cuda_graph"):
            CudaGraph(work.stream.handle, work.stream.synchronize)  # a stream that is recorded cannot be waited for
        work.scale(2.0)
        np.testing.assert_array_equal(work.result(), expected(2.0))


@pytest.mark.parametrize("graph", [False, True])
def test_made_here_used_and_closed_on_other_threads(gpu: Gpu, graph: bool) -> None:
    with gpu, Scaling(gpu) as work:
        work.upload()
        work.scale(1.0)
        work.stream.synchronize()
        recorded = CudaGraph(work.stream.handle, lambda: work.scale(2.0)) if graph else None

        def use() -> np.ndarray:
            with gpu:
                recorded.launch() if recorded else work.scale(2.0)
                return work.result()

        np.testing.assert_array_equal(on_thread(use), expected(2.0))
        if recorded:
            recorded.close()
    on_thread(lambda: gpu.close() or True)
    with pytest.raises(EngineError, match="closed"), gpu:
        pass


def test_everything_is_given_back(gpu: Gpu) -> None:
    def once() -> None:
        other = Gpu()
        with other, Scaling(other, 4 * MIB) as work:
            work.upload()
            assert work.result()[1] == 1.0
        other.close()

    once()  # what CUDA keeps for the process is taken here
    with gpu:
        before = gpu.free_mib()
    for _ in range(10):
        once()
    with gpu:
        assert before - gpu.free_mib() < NOISE_MIB  # 160 MiB, if it were kept
