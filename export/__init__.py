"""From a trained model to a bundle of verified artifacts. TensorFlow is imported only by what converts."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "runtime.benchmarking": ["Timing", "benchmark"],
        "report.latency_figure": ["draw_benchmark"],
        "bundle": ["export_bundle"],
        "qat.compression": ["cluster", "prune"],
        "runtime.inspection": ["Inspection", "inspect"],
        "manifest": ["read_manifest", "verify_bundle"],
        "qat.quantization_aware": ["quantization_aware"],
        "runtime.classifier": ["Classifier", "Prediction"],
        "validate": ["ValidationError"],
    },
)
