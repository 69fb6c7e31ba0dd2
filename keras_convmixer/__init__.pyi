from . import export as export
from . import training as training
from .deployment import deploy as deploy
from .deployment import verify as verify
from .images.preprocessing import Preprocessing as Preprocessing
from .model.convmixer import ConvMixer as ConvMixer
from .model.convmixer import features as features
from .model.imagenet import decode_predictions as decode_predictions
from .model.imagenet import preprocess_input as preprocess_input
from .model.variant_models import ConvMixer256_8 as ConvMixer256_8
from .model.variant_models import ConvMixer512_12 as ConvMixer512_12
from .model.variant_models import ConvMixer512_16 as ConvMixer512_16
from .model.variant_models import ConvMixer768_32 as ConvMixer768_32
from .model.variant_models import ConvMixer768_32_ks3_p14 as ConvMixer768_32_ks3_p14
from .model.variant_models import ConvMixer1024_12 as ConvMixer1024_12
from .model.variant_models import ConvMixer1024_16 as ConvMixer1024_16
from .model.variant_models import ConvMixer1024_20 as ConvMixer1024_20
from .model.variant_models import ConvMixer1536_20 as ConvMixer1536_20
from .model.variant_models import ConvMixer1536_20_ks3_p7 as ConvMixer1536_20_ks3_p7
from .model.variant_models import ConvMixer1536_20_ks9_p14 as ConvMixer1536_20_ks9_p14
from .model.variant_models import ConvMixer1536_24 as ConvMixer1536_24
from .model.variants import VARIANTS as VARIANTS
from .model.variants import Variant as Variant
from .weights.loading import load_weights as load_weights
from .weights.loading import save_weights_torch as save_weights_torch

__version__: str
