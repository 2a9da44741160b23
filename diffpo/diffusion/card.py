"""The model card that is written beside the weights."""

from pathlib import Path

from diffusers.utils.hub_utils import load_or_create_model_card, populate_model_card

from diffpo import __version__
from diffpo.diffusion.data import PairData
from diffpo.diffusion.loading import StableDiffusion

FULL = """from diffusers import StableDiffusionPipeline, UNet2DConditionModel

unet = UNet2DConditionModel.from_pretrained("{folder}", subfolder="unet")
pipe = StableDiffusionPipeline.from_pretrained("{base}", unet=unet)"""
LORA = """from diffusers import StableDiffusionPipeline

pipe = StableDiffusionPipeline.from_pretrained("{base}")
pipe.load_lora_weights("{folder}")"""


def write_card(
    folder: Path, base: StableDiffusion, data: PairData, ema: float | None, report: str, settings: str
) -> None:
    """Write `README.md`: what was tuned on what and how, how to load it, what was lost on the way.

    Args:
        ema: decay of the moving average that the weights are, or None.
        report: what became of the data, for the record.
        settings: the resolved config.
    """
    load = (FULL if base.adapter is None else LORA).format(folder=folder.name, base=base.path)
    averaged = (
        f"The weights are the moving average of the run (decay {ema})."
        if ema
        else "The weights are the last of the run."
    )
    text = f"""# {folder.name}

`{base.path}` tuned on image preferences with diffpo {__version__}. {averaged}

```python
{load}
```

Data: `{data.source}`

{report}

The whole recipe:

```yaml
{settings.strip()}
```
"""
    card = load_or_create_model_card(
        from_training=True, repo_id_or_path=folder.name, model_description=text, base_model=base.path
    )
    card = populate_model_card(card, ["diffusers", "text-to-image", "diffusion-dpo", "diffpo"])
    card.save(folder / "README.md")
