"""From a trained model to a bundle of verified artifacts. TensorFlow is imported only by what converts."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "benchmarking": ["Timing", "benchmark"],
        "benchmark_picture": ["draw_benchmark"],
        "bundle": ["export_bundle"],
        "compression": ["cluster", "prune"],
        "inspection": ["Inspection", "inspect"],
        "manifest": ["read_manifest", "verify_bundle"],
        "qat": ["quantization_aware"],
        "predict": ["Classifier", "Prediction"],
        "validate": ["ValidationError"],
    },
)
