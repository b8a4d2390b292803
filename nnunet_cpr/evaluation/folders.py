"""The earlier name of readers/prediction_folders.py, for programs that import it."""

import sys

from nnunet_cpr.evaluation.readers import prediction_folders

sys.modules[__name__] = prediction_folders
