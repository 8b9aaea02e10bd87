"""The contract of the feature store: keys, records, commits, snapshots; knows no model, image or statistic."""
