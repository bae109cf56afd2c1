"""What cuda-bindings answers where there is no GPU, and what a probe makes of what it answers elsewhere."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from cuda.bindings import runtime

from pipeline.core.errors import BackendError
from pipeline.infer.cuda import CudaBindings, CudaFault, Gpu, Gpus, bindings, look_for_gpus

OK = runtime.cudaError_t.cudaSuccess
NO_DRIVER = 35

NO_GPU = int(runtime.cudaGetDeviceCount()[0]) != 0
CALLS: dict[str, tuple[Any, ...]] = {
    "use": (0,),
    "memory": (),
    "pin": (64,),
    "unpin": (4096,),
    "allocate": (64,),
    "free": (4096,),
    "stream": (),
    "stream_done": (1,),
    "end_stream": (1,),
    "event": (),
    "record": (1, 1),
    "wait_event": (1, 1),
    "event_done": (1,),
    "elapsed_ms": (1, 1),
    "end_event": (1,),
    "copy_in": (4096, 4096, 64, 1),
    "copy_out": (4096, 4096, 64, 1),
    "begin_capture": (1,),
    "end_capture": (1,),
    "launch": (1, 1),
    "end_graph": (1,),
}


class Api(SimpleNamespace):
    """The runtime of a machine with two GPUs, or whatever else it is told to answer."""

    def __init__(self, **answers: Any) -> None:
        def about(ordinal: int) -> tuple[Any, Any]:
            name = f"NVIDIA Test {ordinal}".encode() + b"\0\0"
            return OK, SimpleNamespace(name=name, major=9, minor=0, totalGlobalMem=80 << 30)

        super().__init__(
            cudaError_t=runtime.cudaError_t,
            cudaGetErrorString=runtime.cudaGetErrorString,
            cudaGetDeviceCount=lambda: (OK, 2),
            cudaDriverGetVersion=lambda: (OK, 13010),
            cudaRuntimeGetVersion=lambda: (OK, 13050),
            cudaGetDeviceProperties=about,
        )
        vars(self).update(answers)


def look(**answers: Any) -> Gpus:
    return look_for_gpus(lambda name: Api(**answers))


def failing(code: int) -> Any:
    return lambda *arguments: (runtime.cudaError_t(code), None)


def test_every_gpu_is_told_with_what_an_engine_depends_on() -> None:
    assert look() == Gpus(
        tuple(Gpu(number, f"NVIDIA Test {number}", "9.0", 80 << 30, "13.1", "13.5") for number in (0, 1))
    )
    assert look().found[1].to_dict()["device"] == "cuda:1"


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({"cudaGetDeviceCount": failing(35), "cudaDriverGetVersion": lambda: (OK, 0)}, "no CUDA driver"),
        ({"cudaGetDeviceCount": failing(35)}, "the CUDA driver is of CUDA 13.1, too old for CUDA 13.5"),
        ({"cudaGetDeviceCount": failing(100)}, "the CUDA driver sees no GPU"),
        ({"cudaGetDeviceCount": lambda: (OK, 0)}, "the CUDA driver sees no GPU"),
        ({"cudaGetDeviceCount": failing(999)}, "the CUDA driver fails: unknown error (999)"),
        ({"cudaGetDeviceProperties": failing(46)}, "cuda:0 says nothing of itself: .* (46)"),
    ],
)
def test_why_there_is_no_gpu_is_said_plainly(answers: dict[str, Any], reason: str) -> None:
    gpus = look(**answers)
    assert gpus.found == ()
    assert gpus.reason.startswith(reason.partition(".*")[0]) and gpus.reason.endswith(reason.partition(".*")[2])


def test_what_to_install_is_said_where_the_bindings_are_not() -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    assert "cuda-bindings is not installed: pip install" in look_for_gpus(missing).reason


def test_bindings_that_are_not_installed_are_told_at_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(bindings, "import_module", missing)
    with pytest.raises(BackendError, match=r"cuda-bindings is not installed .* pip install 'sluice\[gpu\]'"):
        CudaBindings().stream()


def test_all_calls_of_the_protocol_are_listed() -> None:
    assert set(CALLS) == {name for name in vars(CudaBindings) if not name.startswith("_")}


def test_what_is_made_is_told_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "cudaStreamCreateWithFlags", lambda flags: (OK, runtime.cudaStream_t(7)))
    monkeypatch.setattr(runtime, "cudaEventCreateWithFlags", lambda flags: (OK, runtime.cudaEvent_t(8 + flags)))
    monkeypatch.setattr(runtime, "cudaStreamEndCapture", lambda stream: (OK, runtime.cudaGraph_t(9)))
    monkeypatch.setattr(runtime, "cudaGraphInstantiate", lambda graph, flags: (OK, runtime.cudaGraphExec_t(11)))
    monkeypatch.setattr(runtime, "cudaGraphDestroy", lambda graph: (OK,))
    cuda = CudaBindings()
    assert (cuda.stream(), cuda.event(timed=True), cuda.event(), cuda.end_capture(7)) == (7, 8, 10, 11)


@pytest.mark.parametrize(("code", "done"), [(0, True), (600, False)])
def test_what_is_not_ready_is_no_error(code: int, done: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cudaEventQuery", "cudaStreamQuery"):
        monkeypatch.setattr(runtime, name, lambda handle: (runtime.cudaError_t(code),))
    assert CudaBindings().event_done(1) is CudaBindings().stream_done(1) is done


if NO_GPU:  # with one, these handles, which nobody made, would be taken for real: tests/gpu has real ones

    @pytest.mark.parametrize("call", CALLS)
    def test_without_a_driver_every_call_answers_an_error_and_none_crashes(call: str) -> None:
        with pytest.raises(CudaFault, match=rf"cuda\w+: cudaErrorInsufficientDriver \({NO_DRIVER}\)") as told:
            getattr(CudaBindings(), call)(*CALLS[call])
        assert told.value.code == NO_DRIVER

    def test_a_graph_that_cannot_be_instantiated_is_destroyed(monkeypatch: pytest.MonkeyPatch) -> None:
        ended: list[int] = []

        def end(graph: Any) -> tuple[Any]:
            ended.append(int(graph))
            return (OK,)

        monkeypatch.setattr(runtime, "cudaStreamEndCapture", lambda stream: (OK, runtime.cudaGraph_t(7)))
        monkeypatch.setattr(runtime, "cudaGraphDestroy", end)
        with pytest.raises(CudaFault, match="cudaGraphInstantiate"):
            CudaBindings().end_capture(1)
        assert ended == [7]
