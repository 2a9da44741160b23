from .prompts import Prompts as Prompts
from .scorer import Scorer as Scorer
from .scorer import TextScorer as TextScorer
from .win_rates import Evaluation as Evaluation
from .win_rates import WinRate as WinRate
