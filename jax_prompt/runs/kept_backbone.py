"""The backbone of a run stays the same: a run that goes on compares it with what it began with.

`backbone.json` in the run directory holds a hash of the weights. Checkpoints hold what trains
alone, so trained on with other frozen weights they would be another run, and nothing would say so.
"""

from pathlib import Path

from jax_prompt.core.json_file import load_object
from jax_prompt.runs.backbone import LoadedBackbone, check_content
from jax_prompt.runs.kept import has_begun
from jax_prompt.train.log import write_json
from jax_prompt.train.processes import from_primary

_NAME = 'backbone.json'
_WAY_OUT = 'put it back from a copy, or remove it: the weights are then taken as they are now'


def keep_backbone(backbone: LoadedBackbone, file: str, workdir: Path) -> None:
    """Keeps which weights a run begins with; of one that goes on, compares them.

    Args:
      backbone: the weights.
      file: where they lie, for errors.
      workdir: the run directory.

    Raises:
      ValueError: they have changed since the run began.
    """
    if backbone.identity is None:
        return

    def compare() -> None:
        path = workdir / _NAME
        if has_begun(workdir) and path.exists():
            kept = load_object(path, _WAY_OUT, ('content', 'source'))
            needs = (
                f'the run in {workdir} began with others ({kept["source"]}). Put that file back, '
                'or take another --workdir'
            )
            check_content(backbone, kept['content'], file or 'the package', needs)
        else:
            assert backbone.identity is not None
            known = {'weights': backbone.identity.label, 'source': backbone.identity.source}
            write_json(path, {**known, 'content': backbone.content})

    from_primary(compare)
