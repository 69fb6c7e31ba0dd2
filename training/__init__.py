"""From images to a trained model. TensorFlow is imported when a name that needs it is first used."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "data.dataset": ["Dataset", "Split", "load_dataset", "load_images"],
        "evaluation": ["Evaluation", "evaluate"],
        "recipe": ["Recipe"],
        "recipes": ["RECIPES"],
        "data.batches": ["Unreadable"],
        "trainer": ["Diverged", "Stopped", "train"],
        "runs.run": ["Run", "load_run"],
    },
)
