"""The export formats of the core."""

from collections.abc import Iterable

from diffcore.plugins.hookspecs import hookimpl
from diffcore.plugins.records import ExportFormat, lazy


@hookimpl
def diffcore_export_formats() -> Iterable[ExportFormat]:
    of = lazy("diffcore.interop")
    return (
        ExportFormat(
            "torch",
            "the denoiser as a program of torch.export, .pt2",
            of("torch_format:denoiser"),
            {"decoder": of("torch_format:decoder")},
        ),
        ExportFormat(
            "onnx",
            "the denoiser as an ONNX model, .onnx",
            of("onnx_format:denoiser"),
            {"decoder": of("onnx_format:decoder")},
            requires=("onnx", "onnxscript"),
            install="pip install 'diffcore[onnx]'",
        ),
    )
