"""The devices that train: which there are, which strategy uses them, and how the workers agree."""
