"""Other ways to weights of 8 bits, each as its documentation says, where its package is installed."""

import copy
import importlib.util
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

ONNX_FILE, ONNX_INT8_FILE = "tower.onnx", "tower-int8.onnx"
# Pictures on which OpenVINO finds the ranges of inputs.
CALIBRATED_ON = 8


@dataclass(frozen=True)
class Contestant:
    """A way to compute features of pictures.

    Args:
        nbytes: of the weights.
    """

    name: str
    forward: Callable[[Tensor], Tensor]
    nbytes: int


def installed(tower: nn.Module, pictures: Tensor, folder: Path) -> list[Contestant]:
    """The ways whose packages are installed. A way that fails is said, and left out.

    Args:
        tower: in float32.
        folder: for files of models.
    """
    contestants: list[Contestant] = []
    for packages, make in WAYS.items():
        missing = [package for package in packages if importlib.util.find_spec(package) is None]
        if missing:
            print(f"{make.__name__}: {', '.join(missing)} is not installed", file=sys.stderr)
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                contestants += make(tower, pictures, folder)
        except Exception as error:  # noqa: BLE001  what fails in a package of others is a result, too
            print(f"{make.__name__}: {type(error).__name__}: {error}", file=sys.stderr)
    return contestants


def torch_dynamic(tower: nn.Module, pictures: Tensor, folder: Path) -> list[Contestant]:
    """`torch.ao.quantization.quantize_dynamic`, with a scale for each output."""
    from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

    weights = {nn.Linear: per_channel_dynamic_qconfig}
    quantized = quantize_dynamic(copy.deepcopy(tower), weights)  # type: ignore[no-untyped-call]
    return [Contestant("torch quantize_dynamic", quantized, _int8_bytes(tower))]


def torchao_dynamic(tower: nn.Module, pictures: Tensor, folder: Path) -> list[Contestant]:
    """torchao's `Int8DynamicActivationInt8WeightConfig`, without and with a compiler."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantized = copy.deepcopy(tower)
    quantize_(quantized, Int8DynamicActivationInt8WeightConfig())
    ways = [Contestant("torchao", quantized, _int8_bytes(tower))]
    compiled = torch.compile(quantized, dynamic=False)
    compiled(pictures[:1])
    return [*ways, Contestant("torchao with torch.compile", compiled, _int8_bytes(tower))]


def onnx_runtime(tower: nn.Module, pictures: Tensor, folder: Path) -> list[Contestant]:
    """ONNX Runtime, in float32 and with `quantize_dynamic`."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    _export(tower, pictures, folder)
    # Without VNNI, sums of two products would not fit with all the 8 bits.
    quantize_dynamic(
        folder / ONNX_FILE,
        folder / ONNX_INT8_FILE,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
    )
    names = {ONNX_FILE: "ONNX Runtime in float32", ONNX_INT8_FILE: "ONNX Runtime quantize_dynamic"}
    return [_in_onnx_runtime(name, folder / file) for file, name in names.items()]


def openvino(tower: nn.Module, pictures: Tensor, folder: Path) -> list[Contestant]:
    """OpenVINO, in float32 and quantised by NNCF with ranges of inputs from some pictures."""
    import nncf
    import openvino as ov

    _export(tower, pictures, folder)
    model = ov.Core().read_model(folder / ONNX_FILE)
    calibration = nncf.Dataset([picture[None].numpy() for picture in pictures[:CALIBRATED_ON]])
    quantized = nncf.quantize(model, calibration, model_type=nncf.ModelType.TRANSFORMER)
    ov.save_model(quantized, folder / "tower-openvino.xml", compress_to_fp16=False)
    size = (folder / "tower-openvino.bin").stat().st_size
    plain = sum(weight.nbytes for weight in tower.parameters())
    pairs = (("OpenVINO in float32", model, plain), ("OpenVINO by NNCF", quantized, size))
    return [_in_openvino(name, ov.compile_model(each, "CPU"), nbytes) for name, each, nbytes in pairs]


def _export(tower: nn.Module, pictures: Tensor, folder: Path) -> None:
    shapes = {"pictures": {0: "batch"}}
    torch.onnx.export(
        tower,
        (pictures[:2],),
        folder / ONNX_FILE,
        input_names=["pictures"],
        output_names=["features"],
        dynamic_axes=shapes | {"features": {0: "batch"}},
        dynamo=False,
    )


def _in_onnx_runtime(name: str, file: Path) -> Contestant:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that wait in a loop would take the cores from the others in turn.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return Contestant(
        name,
        lambda pictures: torch.from_numpy(session.run(None, {"pictures": pictures.numpy()})[0]),
        file.stat().st_size,
    )


def _in_openvino(
    name: str, compiled: Callable[[Sequence[object]], Mapping[int, object]], nbytes: int
) -> Contestant:
    return Contestant(name, lambda pictures: torch.from_numpy(compiled([pictures.numpy()])[0]), nbytes)


def _int8_bytes(tower: nn.Module) -> int:
    """Bytes of the weights if those of linear layers have 8 bits."""
    linear = sum(layer.weight.numel() for layer in tower.modules() if isinstance(layer, nn.Linear))
    return sum(weight.nbytes for weight in tower.parameters()) - 3 * linear


WAYS: Mapping[tuple[str, ...], Callable[[nn.Module, Tensor, Path], list[Contestant]]] = MappingProxyType(
    {
        ("torch",): torch_dynamic,
        ("torchao",): torchao_dynamic,
        ("onnx", "onnxruntime"): onnx_runtime,
        ("openvino", "nncf"): openvino,
    }
)
