"""
Title: Certify a model of your own
Author: tfcert authors
Date created: 2026/11/30
Last modified: 2026/11/30
Description: Prove that small changes of an image do not change the answer of a Keras model.
Accelerator: None
"""

"""
A trained classifier is right on most images. Is the classifier still right if every pixel changes a
little? An attack can find images where it is wrong. Only a bound can show that there are no such
images: whatever the change is, the lead of the right class never falls below the bound.

This example takes an ordinary Keras model, and asks tfcert for bounds and verdicts. The model needs
no preparation and no further training.

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
import numpy as np

import tfcert

keras.utils.set_random_seed(0)

"""
## A model

The digits ship with tfcert: 1,437 images of 8×8 pixels for training and 360 for testing, with
values from 0 (white) to 1 (black). The model has a convolution and a branch around a layer. The
model ends in logits, without a softmax.
"""

(x_train, y_train), (x_test, y_test) = tfcert.datasets.load("digits")

inputs = keras.Input((8, 8, 1))
features = keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(inputs)
features = keras.layers.Flatten()(features)
hidden = keras.layers.Dense(32, activation="relu")(features)
hidden = keras.layers.Add()([hidden, keras.layers.Dense(32, activation="relu")(hidden)])
model = keras.Model(inputs, keras.layers.Dense(10)(hidden))

loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
model.fit(x_train, y_train, batch_size=64, epochs=12, verbose=0)
accuracy = model.evaluate(x_test, y_test, verbose=0)[1]
print(f"accuracy on the test images: {accuracy:.1%}")

"""
## What may change

A *region* says which inputs an attacker may choose. In this example every pixel may move by 0.02,
and stays between 0 and 1.
"""

region = tfcert.LpBall(eps=0.02, norm="inf", clip=(0.0, 1.0))

"""
## Bounds of one image

`tfcert.bound` returns limits of all ten logits over the region. The dots are the logits at random
points of the region. The true range lies between the dots and the bounds. Interval arithmetic
("ibp") is fast and loose; "crown" is tighter.
"""

one, label = x_test[2:3], y_test[2]
points = np.asarray(model(np.asarray(region.sample(one, count=500, seed=0))[0]))
figure, axes = plt.subplots(figsize=(6.4, 3.0), layout="constrained")
for shift, method, color in ((-0.2, "ibp", "C0"), (0.2, "crown", "C1")):
    lower, upper = (np.asarray(limit)[0] for limit in tfcert.bound(model, one, region, method))
    middle = (lower + upper) / 2
    axes.errorbar(
        np.arange(10) + shift,
        middle,
        (upper - lower) / 2,
        fmt="none",
        capsize=3,
        color=color,
        label=method,
    )
axes.plot(points.T, "k.", markersize=2, alpha=0.3)
axes.set(xlabel=f"class (the right one is {label})", ylabel="logit", xticks=range(10))
axes.legend()
plt.show()

"""
## The verdict on every image

`tfcert.certify` decides every image. It starts with an attack, and continues with bounds, from fast
to tight, on the images that are still open.
"""

result = tfcert.certify(model, x_test, y_test, region)
print(result.summary())

"""
- **verified**: a proof shows that the model is right on every point of the region.
- **falsified**: the attack found a point of the region that the model gets wrong.
- **misclassified**: the model is wrong on the image itself.
- **unknown**: neither a proof nor a counterexample was found.

## Counterexamples

Every falsified image has a counterexample: a point of the region that the model gets wrong.
"""

places = list(result.counterexamples)[:4]
figure, grid = plt.subplots(2, len(places), figsize=(5.6, 3.2), layout="constrained", squeeze=False)
for column, place in enumerate(places):
    point = np.asarray(result.counterexamples[place]).reshape(8, 8)
    wrong = int(np.argmax(model(point.reshape(1, 8, 8, 1))))
    pictures = ((x_test[place].reshape(8, 8), y_test[place]), (point, wrong))
    for row, (picture, answer) in enumerate(pictures):
        grid[row, column].imshow(picture, cmap="gray_r", vmin=0, vmax=1)
        grid[row, column].set_title(f"model says {answer}", fontsize=9)
        grid[row, column].axis("off")
plt.show()

"""
The lower row differs from the upper row by at most 0.02 per pixel.

## The largest radius

With `max_eps` every image also gets the largest verified radius. A bisection finds this radius.
"""

found = tfcert.certify(
    model, x_test[:60], y_test[:60], region, method="crown", max_eps=0.08, eps_steps=5
)
figure, axes = plt.subplots(figsize=(6.4, 2.6), layout="constrained")
axes.hist(found.radius, bins=np.linspace(0.0, 0.08, 17), edgecolor="white")
axes.set(xlabel="largest verified eps", ylabel="images")
plt.show()

"""
## Where to go from here

- An ordinary model can be verified at small radii only. The example on training a certified
  classifier shows how to do better.
- tfcert refuses unknown layers by name. You can register a rule for your own layer.
- `result.to_frame()` returns the verdicts as a table, and `log="run.tsv"` writes them to a file.
"""
