"""
Title: Prove a property of a controller
Author: tfcert authors
Date created: 2026/11/30
Last modified: 2026/11/30
Description: Show that a network which controls a temperature keeps it in its limits for ever.
Accelerator: None
"""

"""
Bounds are not only for classifiers. A controller is a network from numbers to numbers, and the
questions are about ranges: does the temperature stay within its limits, whatever the state is now?

A server room heats itself: left alone, its temperature moves away from the target by 10 % a minute.
A network reads two temperatures and sets the heating or cooling. This example proves that the room
stays within its limits, for ever, with `tfcert.verify`.

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
from tfcert import properties

keras.utils.set_random_seed(0)

"""
## The controller

The state is how far the server room and the corridor beside it are from their targets, in units of
the largest distance that is allowed. A network learns a command from a smooth rule that somebody
wrote: cool when it is warm, heat when it is cold.
"""

states = np.random.default_rng(0).uniform(-1.0, 1.0, (4000, 2)).astype("float32")
commands = -1.2 * np.tanh(1.5 * states[:, :1] + 0.3 * states[:, 1:])

controller = keras.Sequential(
    [
        keras.Input((2,)),
        keras.layers.Dense(16, activation="relu"),
        keras.layers.Dense(16, activation="relu"),
        keras.layers.Dense(1),
    ]
)
controller.compile(keras.optimizers.Adam(5e-3), "mean_squared_error")
controller.fit(states, commands, batch_size=128, epochs=15, verbose=0)
error = np.abs(controller.predict(states, verbose=0) - commands).max()
print(f"largest difference from the rule, on the training states: {error:.2f}")

"""
## One question about the command

Is there always cooling when the server room is more than halfway to its upper limit? `Linear` asks
whether `rows @ outputs + offsets` is positive for all inputs of a box: here, whether the command
lies below -0.3.
"""

warm = tfcert.Box(lower=[0.5, -1.0], upper=[1.0, 1.0])
center = np.array([[0.75, 0.0]], "float32")
cooling = properties.Linear(rows=[[-1.0]], offsets=-0.3)
outcome = tfcert.verify(controller, cooling, center, warm, time_limit=60)
print(outcome.verdict)

"""
## The room and its controller as one network

The next state depends linearly on this state and on the command. Both are layers, so the room with
its controller is a Keras model, too.
"""

state = keras.Input((2,))
room = keras.layers.Dense(2, use_bias=False, trainable=False, name="room")
effect = keras.layers.Dense(2, use_bias=False, trainable=False, name="effect")
step = keras.Model(state, keras.layers.Add()([room(state), effect(controller(state))]))
room.set_weights([np.array([[1.1, 0.1], [0.05, 0.8]], "float32")])
effect.set_weights([np.array([[0.5, 0.0]], "float32")])

"""
## It stays within its limits

If every allowed state leads to an allowed state, the room stays within its limits for ever.
`OutputRange` asks just that: both next numbers lie strictly between -1 and 1.
"""

allowed = tfcert.Box(lower=[-1.0, -1.0], upper=[1.0, 1.0])
middle = np.zeros((1, 2), "float32")
stays = tfcert.verify(step, properties.OutputRange(-1.0, 1.0), middle, allowed, time_limit=60)
print(f"{stays.verdict}, proved in {stays.domains} parts")

"""
In the picture the grey box is what is allowed, and each arrow is one minute. The red box is a bound
of all states after a minute. It sticks out of the grey box: one bound for all states at once is too
loose here. `verify` went on, split the grey box into parts, and proved each of them.
"""

lower, upper = (np.asarray(limit)[0] for limit in tfcert.bound(step, middle, allowed, "crown"))
grid = np.stack(np.meshgrid(np.linspace(-1, 1, 11), np.linspace(-1, 1, 11)), -1).reshape(-1, 2)
moved = step.predict(grid.astype("float32"), verbose=0) - grid
figure, axes = plt.subplots(figsize=(4.6, 4.4), layout="constrained")
axes.add_patch(plt.Rectangle((-1, -1), 2, 2, facecolor="0.92", label="allowed"))
axes.quiver(*grid.T, *moved.T, angles="xy", scale_units="xy", scale=1, width=0.004)
axes.add_patch(
    plt.Rectangle(lower, *(upper - lower), fill=False, edgecolor="C3", label="bound after a minute")
)
axes.set(xlabel="server room", ylabel="corridor", xlim=(-1.25, 1.25), ylim=(-1.25, 1.25))
axes.legend(loc="upper center", ncols=2)
plt.show()

"""
## A property that does not hold

Does one minute always bring the room within half of its limits? It does not, and `verify` says
where it fails.
"""

half = tfcert.verify(step, properties.OutputRange(-0.5, 0.5), middle, allowed, time_limit=60)
found = half.found
print(half.verdict)
print("the state", [round(float(value), 2) for value in np.ravel(found.point)])
print("leads to ", [round(float(value), 2) for value in np.ravel(found.outputs)])

"""
## Where to go from here

- Write a property of your own as a subclass of `tfcert.properties.OutputProperty`.
- `tfcert-verify network.onnx property.vnnlib` asks the same from the command line.
- `certificate="proof.npz"` writes a proof that another program checks, for ONNX networks.
"""
