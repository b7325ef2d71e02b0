"""
Title: Train a certified classifier
Author: tfcert authors
Date created: 2026/11/30
Last modified: 2026/11/30
Description: Put the bounds into the loss, so that more answers of the model can be proved.
Accelerator: None
"""

"""
A network from ordinary training is hard to verify, because its bounds are loose. Certified training
adds the bounds to the loss. After certified training, far more answers can be proved. The network
often loses a little accuracy on unchanged images.

This example trains the same network twice: as usual, and with interval bounds (IBP). Then it
compares the proofs for both networks.

## Set up

On Colab the first cell installs tfcert.
"""

import importlib.util
import subprocess
import sys

if importlib.util.find_spec("tfcert") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "tfcert"], check=True)

"""
"""

import keras
import matplotlib.pyplot as plt

import tfcert

(x_train, y_train), (x_test, y_test) = tfcert.datasets.load("digits")


def make_model() -> keras.Model:
    """Returns a new network, always with the same initial weights."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


"""
## Ordinary training
"""

ordinary = make_model()
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
ordinary.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
ordinary.fit(x_train, y_train, batch_size=64, epochs=20, verbose=0)
accuracy = ordinary.evaluate(x_test, y_test, verbose=0)[1]
print(f"accuracy on the test images: {accuracy:.1%}")

"""
## With bounds in the loss

Three objects are new: the region, an *objective*, and a trainer around the model. The radius starts
at 0 and reaches its full size in epoch 10. With a large radius from the start, the network would
learn nothing.
"""

region = tfcert.LpBall(eps=0.08, clip=(0.0, 1.0))
objective = tfcert.objectives.IBP(region, ramp=(1, 10))
certified = make_model()
trainer = tfcert.CertifiedTrainer(certified, objective)
trainer.compile(keras.optimizers.Adam(3e-3))
history = trainer.fit(
    x_train,
    y_train,
    batch_size=64,
    epochs=20,
    validation_data=(x_test, y_test),
    verbose=0,
).history

"""
The History shows two accuracies. The accuracy counts unchanged images. The verified accuracy counts
images that are right and proved to stay right. `certified` is an ordinary Keras model: you can
save, load and serve it without tfcert.
"""

figure, axes = plt.subplots(figsize=(6.4, 3.0), layout="constrained")
axes.plot(history["val_accuracy"], label="accuracy")
axes.plot(history["val_verified_accuracy"], label="verified accuracy")
axes.set(xlabel="epoch", ylabel="share of the test images", ylim=(0, 1), xticks=range(0, 20, 5))
axes.twinx().plot(history["eps"], "k:", linewidth=1)
axes.legend(loc="lower right")
axes.set_title("dotted: the radius of training, up to 0.08", fontsize=10)
plt.show()

"""
## Comparing the two networks

How many test images are right, and provably stay right for every change of the pixels by at most
eps? The figure compares both networks.
"""

sizes = (0.03, 0.055, 0.08)
figure, axes = plt.subplots(figsize=(6.4, 3.0), layout="constrained")
for name, model in (("as usual", ordinary), ("with bounds in the loss", certified)):
    verified = []
    for eps in sizes:
        result = tfcert.certify(model, x_test[:100], y_test[:100], region.with_eps(eps))
        verified.append(result.verified_accuracy)
    print(f"{name:24} right {result.accuracy:.1%}, verified at eps 0.08 {verified[-1]:.1%}")
    axes.plot((0.0, *sizes), (result.accuracy, *verified), marker="o", label=name)
axes.set(xlabel="eps", ylabel="verified share", ylim=(0, 1))
axes.legend(loc="lower left")
plt.show()

"""
## Where to go from here

- `tfcert.objectives` has more methods: CROWN-IBP, MAAR, SABR, MTL-IBP and others. Each method is
  one object, used in the same way.
- Watch `val_verified_accuracy` while the radius grows. If the accuracy collapses, give the ramp
  more epochs.
- The objective takes `train_eps`. Many papers train at a larger radius than they test at.
"""
