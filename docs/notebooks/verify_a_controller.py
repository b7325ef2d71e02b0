"""
Title: Prove a property of a controller
Author: tfcert authors
Date created: 2026/11/30
Last modified: 2026/11/30
Description: Show that a network which controls a temperature keeps it in its limits for ever.
Accelerator: None
"""

"""
Bounds are not only for classifiers. A controller is a network from numbers to numbers, and
questions about a controller are questions about ranges. For example: does the temperature stay
within its limits, whatever the state is now?

A server room heats itself: without control, its temperature moves away from the target by 10 % a
minute. A network reads two temperatures and sets the heating or cooling. This example proves with
`tfcert.verify` that the room stays within its limits for ever.

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

The state has two numbers: how far the server room and the corridor are from their targets, in units
of the largest allowed distance. A network learns a command from a smooth rule: cool if the room is
warm, and heat if the room is cold.
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

Does the controller always cool if the server room is more than halfway to its upper limit? `Linear`
asks whether `rows @ outputs + offsets` is positive for all inputs of a box. In this example the
condition says that the command lies below -0.3.
"""

warm = tfcert.Box(lower=[0.5, -1.0], upper=[1.0, 1.0])
center = np.array([[0.75, 0.0]], "float32")
cooling = properties.Linear(rows=[[-1.0]], offsets=-0.3)
outcome = tfcert.verify(controller, cooling, center, warm, time_limit=60)
print(outcome.verdict)

"""
## The room and its controller as one network

The next state depends linearly on the present state and on the command. Two layers describe these
effects, so the room with its controller is a Keras model too.
"""

state = keras.Input((2,))
room = keras.layers.Dense(2, use_bias=False, trainable=False, name="room")
effect = keras.layers.Dense(2, use_bias=False, trainable=False, name="effect")
step = keras.Model(state, keras.layers.Add()([room(state), effect(controller(state))]))
room.set_weights([np.array([[1.1, 0.1], [0.05, 0.8]], "float32")])
effect.set_weights([np.array([[0.5, 0.0]], "float32")])

"""
## The room stays within its limits

If every allowed state leads to an allowed state, the room stays within its limits for ever.
`OutputRange` asks exactly this: both numbers of the next state lie strictly between -1 and 1.
"""

allowed = tfcert.Box(lower=[-1.0, -1.0], upper=[1.0, 1.0])
middle = np.zeros((1, 2), "float32")
stays = tfcert.verify(step, properties.OutputRange(-1.0, 1.0), middle, allowed, time_limit=60)
print(f"{stays.verdict}, proved in {stays.domains} parts")

"""
In the picture the grey box contains the allowed states, and each arrow is one minute. The red box
bounds all states after a minute. The red box extends beyond the grey box, because a single bound
for all states is too loose. `verify` split the grey box into parts, and proved each part.
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

Does one minute always bring the room within half of its limits? The answer is no, and `verify`
finds a state where the property fails.
"""

half = tfcert.verify(step, properties.OutputRange(-0.5, 0.5), middle, allowed, time_limit=60)
found = half.found
print(half.verdict)
print("the state", [round(float(value), 2) for value in np.ravel(found.point)])
print("leads to ", [round(float(value), 2) for value in np.ravel(found.outputs)])

"""
## Where to go from here

- To write your own property, subclass `tfcert.properties.OutputProperty`.
- `tfcert-verify network.onnx property.vnnlib` does the same on the command line.
- `certificate="proof.npz"` writes a proof that another program can check.
"""
