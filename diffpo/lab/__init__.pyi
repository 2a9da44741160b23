from .rewrites.evaluation import Rewriting as Rewriting
from .rewrites.oracle import RewriteOracle as RewriteOracle
from .scenes.scorer import SceneOracle as SceneOracle
from .shapes.scorer import Oracle as Oracle
from .shapes.speakers import Misstate as Misstate
from .shapes.speakers import OracleCaptioner as OracleCaptioner
from .users.judge import UserOracle as UserOracle
