"""
Title: Certify by randomized smoothing
Author: tfcert authors
Date created: 2026/11/30
Last modified: 2026/11/30
Description: Certificates for any classifier, from votes under noise, with a chosen probability.
Accelerator: None
"""

"""
Bounds need a rule for every layer, and get loose in deep networks. Randomized smoothing works for
any network: it adds noise to an image many times, and counts the classes. If one class wins
clearly, the *smoothed* classifier provably keeps this class within a radius around the image.

Smoothing has a price. The certificate holds with a chosen probability, describes the smoothed
classifier, and takes thousands of forward passes.

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
from tfcert import objectives, smoothing

(x_train, y_train), (x_test, y_test) = tfcert.datasets.load("digits")
x, y = x_test[:100], y_test[:100]

"""
## Train under noise

The network must be right on noisy images, so it needs training on noisy images. `GaussianSmoothing`
adds the noise to every batch.
"""


def train(sigma: float) -> keras.Model:
    """Trains a network on images with noise of this size."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    trainer = tfcert.CertifiedTrainer(model, objectives.GaussianSmoothing(sigma, copies=2))
    trainer.compile(keras.optimizers.Adam(3e-3))
    trainer.fit(x_train, y_train, batch_size=64, epochs=25, verbose=0)
    return model


models = {sigma: train(sigma) for sigma in (0.12, 0.25)}

"""
The networks see images like these: one image without noise, and with the two sizes of noise.
"""

generator = np.random.default_rng(0)
figure, grid = plt.subplots(1, 3, figsize=(5.0, 1.9), layout="constrained")
for axes, sigma in zip(grid, (0.0, 0.12, 0.25), strict=True):
    noise = generator.normal(0.0, 1.0, (8, 8)) * sigma
    axes.imshow(x[1].reshape(8, 8) + noise, cmap="gray_r", vmin=-0.3, vmax=1.3)
    axes.set_title(f"sigma = {sigma}", fontsize=10)
    axes.axis("off")
plt.show()

"""
## Certify

`certify_set` draws 2,000 noisy copies of each image. Each certificate is wrong with probability at
most `alpha`.
"""

results = {}
for sigma, model in models.items():
    smoothed = smoothing.SmoothedClassifier(model, sigma=sigma)
    results[sigma] = smoothing.certify_set(smoothed, x, y, n=2000, alpha=0.001)
    right = results[sigma].certified_accuracy(0.0)
    print(f"sigma {sigma}: right and certified {right:.0%}, at radius 0.25 ", end="")
    print(f"{results[sigma].certified_accuracy(0.25):.0%}")

"""
Each curve shows the share of images that are right and certified at each radius, in the l2 norm.
More noise gives larger radii and costs accuracy.
"""

radii = np.linspace(0.0, 0.8, 81)
figure, axes = plt.subplots(figsize=(6.4, 3.0), layout="constrained")
for sigma, result in results.items():
    shares = [result.certified_accuracy(radius) for radius in radii]
    axes.step(radii, shares, where="post", label=f"sigma = {sigma}")
axes.set(xlabel="l2 radius", ylabel="certified accuracy", ylim=(0, 1))
axes.legend()
plt.show()

"""
## What the certificate says

- The certificate describes the smoothed classifier. So deploy `smoothed.predict`, not the network
  itself. `smoothed.predict` returns the class of the smoothed classifier, or abstains.
- The number of samples limits the radius, even if all samples agree.
- `sigma` trades accuracy for radius. Train with the noise that you certify with.

`objectives.ConsistencySmoothing`, `SmoothAdv` and `MACER` train networks with larger radii.
"""
