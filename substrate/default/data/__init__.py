"""The data pipeline: recipe -> mixture -> traces -> augmentation -> filters -> train.jsonl."""
