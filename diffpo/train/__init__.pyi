from .adapters import Adapter as Adapter
from .metrics import Meter as Meter
from .publish import Publish as Publish
from .validation import Validation as Validation
