"""What a face hands on is public, for griffe, which otherwise leaves imported names out."""

from pathlib import Path

from griffe import Extension, Module


class Faces(Extension):
    """Take the names of each room's stub for its `__all__`, which exists at run time alone."""

    def on_package(self, *, pkg: Module, **_) -> None:
        rooms = [pkg]
        for room in rooms:
            rooms += [module for module in room.modules.values() if not module.is_alias]
            if room.is_init_module and Path(str(room.filepath)).with_suffix(".pyi").exists():
                room.exports = sorted(set(room.imports) - {"lazy"})
