"""Options of the plugin's parts, and what is known of a set of point clouds."""

from pydantic import Field

from diffcore.components import Settings


class CloudFacts(Settings):
    """What samples need to know of the clouds a model was trained on."""

    points: int = Field(ge=1)
    """Points of a cloud."""
    classes: tuple[str, ...] = ()
    centre: tuple[float, float, float]
    """Mean place over all points of all training clouds, in the data's unit."""
    scale: float = Field(gt=0)
    """Standard deviation of coordinates about `centre`, in the data's unit: one number, so shapes keep their form."""
    normals: bool = False
    colours: bool = False
