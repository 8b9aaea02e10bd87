"""Statistics of survival predictions as functions of arrays; knows nothing of models, folds' files, stores or clusters."""
