"""Handwritten digits with Keras on torch.

tunesmith up --tasks digits_keras.py
"""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "torch"  # before keras is imported

import keras
from sklearn.datasets import load_digits

from tunesmith_workers.callbacks.keras import TunesmithCallback
from tunesmith_workers.loop import Trial, train


@train("digits-keras")
def digits(trial: Trial) -> None:
    keras.utils.set_random_seed(trial.seed)
    x, y = load_digits(return_X_y=True)
    x = x.astype("float32") / 16
    model = keras.Sequential(
        [
            keras.layers.Input((64,)),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(10),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(trial.params["lr"]),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )
    model.fit(
        x[:1400],
        y[:1400],
        validation_data=(x[1400:], y[1400:]),
        batch_size=64,
        epochs=trial.epochs,
        callbacks=[TunesmithCallback(trial)],
        verbose=0,
    )
