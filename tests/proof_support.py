"""Small networks and properties in files, exact arithmetic, and proofs made in plain NumPy."""

import dataclasses
import itertools
from fractions import Fraction

import numpy as np
import onnx
import scipy.optimize

import tfcert_check
from tests import onnx_cases
from tfcert_check import proofs as format_
from tfcert_check.bounds import Enclosure


def mlp(sizes, seed=0, slope=None, scale=None, dtype="float32"):
    """An ONNX network of dense layers; `scale` multiplies weights by powers of 10 up to it."""
    rng = np.random.default_rng(seed)
    nodes, constants, name = [], {}, "x"
    for i, (before, after) in enumerate(itertools.pairwise(sizes)):
        weights = rng.normal(size=(before, after)) / np.sqrt(before)
        if scale:
            weights *= 10.0 ** rng.integers(-scale, scale + 1, weights.shape)
        constants[f"w{i}"] = weights.astype(dtype)
        constants[f"b{i}"] = rng.normal(size=after).astype(dtype) * 0.3
        last = i == len(sizes) - 2
        nodes.append(("Gemm", f"{name} w{i} b{i}", "y" if last else f"z{i}", {}))
        if not last:
            kind, settings = ("Relu", {}) if slope is None else ("LeakyRelu", {"alpha": slope})
            nodes.append((kind, f"z{i}", f"h{i}", settings))
        name = f"h{i}"
    kind = onnx.TensorProto.DOUBLE if dtype == "float64" else onnx.TensorProto.FLOAT
    return onnx_cases.network(nodes, constants, (1, sizes[0]), kind=kind)


def residual(seed=0):
    """An ONNX network with convolutions, an average, and two branches that are added."""
    rng = np.random.default_rng(seed)

    def weights(*shape):
        return (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype("float32")

    nodes = [
        ("Sub", "x mean", "c", {}),
        ("Div", "c std", "d", {}),
        ("Conv", "d k0 b0", "z0", {"strides": [2, 1], "pads": [1, 0, 0, 1]}),
        ("BatchNormalization", "z0 gamma beta mu var", "n0", {"epsilon": 1e-3}),
        ("Relu", "n0", "h0", {}),
        ("Conv", "h0 k1", "z1", {"pads": [2, 2, 2, 2], "dilations": [2, 2], "group": 2}),
        ("LeakyRelu", "z1", "h1", {"alpha": 0.1}),
        ("Conv", "h0 k2", "z2", {}),
        ("Relu", "z2", "h2", {}),
        ("Add", "h1 h2", "s", {}),
        ("AveragePool", "s", "a", {"kernel_shape": [3, 1], "strides": [1, 1]}),
        ("Transpose", "a", "t", {"perm": [0, 2, 3, 1]}),
        ("Concat", "t t", "tt", {"axis": 3}),
        ("Reshape", "tt shape", "f", {}),
        ("MatMul", "f w", "m", {}),
        ("Mul", "m two", "y", {}),
    ]
    constants = {
        "mean": np.float32([[[0.1]], [[0.3]]]),
        "std": np.float32([[[0.7]], [[0.3]]]),
        "k0": weights(4, 2, 3, 2),
        "b0": weights(4, 1)[:, 0],
        "gamma": np.abs(weights(4, 1)[:, 0]) + np.float32(0.5),
        "beta": weights(4, 1)[:, 0],
        "mu": weights(4, 1)[:, 0],
        "var": np.abs(weights(4, 1)[:, 0]) + np.float32(0.5),
        "k1": weights(4, 2, 3, 3),
        "k2": weights(4, 4, 1, 1),
        "w": weights(3, 40).T.copy(),
        "two": np.float32(2),
        "shape": np.array([0, -1]),
    }
    return onnx_cases.network(nodes, constants, (1, 2, 6, 5))


def property_text(lower, upper, outputs, alternatives):
    """VNN-LIB in exact decimals; an alternative is a list of rows ``(*factors, constant)``."""
    lines = [f"(declare-const X_{i} Real)" for i in range(len(lower))]
    lines += [f"(declare-const Y_{i} Real)" for i in range(outputs)]
    for i, (low, high) in enumerate(zip(lower, upper, strict=True)):
        lines.append(f"(assert (>= X_{i} {low:.60g}))\n(assert (<= X_{i} {high:.60g}))")
    ways = []
    for rows in alternatives:
        conditions = []
        for *factors, constant in rows:
            terms = " ".join(f"(* {f:.60g} Y_{i})" for i, f in enumerate(factors) if f)
            conditions.append(f"(>= (+ {terms} {constant:.60g}) 0.0)")
        ways.append(f"(and {' '.join(conditions)})")
    lines.append(f"(assert (or {' '.join(ways)}))")
    return "\n".join(lines)


@dataclasses.dataclass
class Files:
    """A network and a property in files, and as the checker reads them."""

    folder: object
    proto: onnx.ModelProto
    text: str

    def __post_init__(self):
        self.network_path = self.folder / "net.onnx"
        self.property_path = self.folder / "asked.vnnlib"
        self.proof_path = self.folder / "proof.npz"
        onnx.save(self.proto, self.network_path)
        self.property_path.write_text(self.text, encoding="utf-8")
        self.network = tfcert_check.read_network(self.network_path)
        self.asked = tfcert_check.read_property(self.property_path)

    def arguments(self):
        return [str(p) for p in (self.network_path, self.property_path, self.proof_path)]

    def check(self, arrays):
        """What the checker says of arrays: how many leaves; Refused."""
        np.savez(self.proof_path, **arrays)
        return tfcert_check.check(
            self.network, self.asked, tfcert_check.read_proof(self.proof_path)
        )

    def margins(self, arrays):
        """The bounds of all leaves."""
        np.savez(self.proof_path, **arrays)
        proof = tfcert_check.read_proof(self.proof_path)
        return [leaf.bound for leaf in tfcert_check.margins(self.network, self.asked, proof)]

    def prove(self, most=2000, units=False):
        """The arrays of a proof that cuts the longest edge, or the signs of units in turn."""
        nodes = {name: [] for name in format_.NODES}

        def add(**values):
            default = {"kind": 0, "child": -1, "layer": -1, "index": 0, "point": 0.0}
            for name, value in {**default, "slopes": -1, "sweep": True, **values}.items():
                nodes[name].append(value)
            return len(nodes["kind"]) - 1

        roots = [add() for _ in self.asked.cases]
        open_ones = [
            (root, case, case.lower, case.upper, {})
            for root, case in zip(roots, self.asked.cases, strict=True)
        ]
        while open_ones:
            assert len(nodes["kind"]) < most, "too hard for a test"
            node, case, lower, upper, signs = open_ones.pop()
            enclosure = Enclosure(self.network, lower[None], upper[None], signs)
            bounds = enclosure.lower_bounds(self.network.output, -case.rows[None, :, :-1])
            bounds = bounds[0] - case.rows[:, -1]
            nodes["index"][node] = int(bounds.argmax())
            if bounds.max() > 1e-9 or enclosure.empty[0]:
                continue
            nodes["child"][node] = add()
            add()
            if units and (found := self._open_unit(enclosure, signs)):
                layer, unit = found
                nodes["kind"][node], nodes["layer"][node], nodes["index"][node] = 2, layer, unit
                parts = []
                for sign in (1, -1):
                    own = {k: s.copy() for k, s in signs.items()}
                    own.setdefault(layer, np.zeros((1, self.network.layers[layer].size), np.int8))
                    own[layer][0, unit] = sign
                    parts.append((lower, upper, own))
            else:
                axis = int((upper - lower).argmax())
                middle = 0.5 * (lower[axis] + upper[axis])
                nodes["kind"][node], nodes["index"][node], nodes["point"][node] = 1, axis, middle
                below, above = upper.copy(), lower.copy()
                below[axis] = above[axis] = middle
                parts = [(lower, below, signs), (above, upper, signs)]
            child = nodes["child"][node]
            open_ones += [(child + k, case, *part) for k, part in enumerate(parts)]
        count = len(nodes["kind"])
        types = {"i": np.int64, "f": np.float64, "b": np.bool_}
        return {
            "format": np.array(format_.FORMAT),
            "network": np.array(self.network.sha256),
            "property": np.array(self.asked.sha256),
            "roots": np.array(roots, np.int64),
            **{k: np.array(v, types[format_.NODES[k]]) for k, v in nodes.items()},
            "starts": np.zeros(count + 1, np.int64),
            "multipliers": np.zeros(0),
        }

    def _open_unit(self, enclosure, signs):
        """A unit whose sign is open, of the first layer that has one."""
        for number, layer in enumerate(self.network.layers):
            lower, upper = enclosure.intervals[layer.source]
            gap = np.minimum(-lower, upper)[0]
            if gap.max() > 0:
                return number, int(gap.argmax())
        return None


def exact_values(network, point):
    """The values of a network at a point in rational arithmetic, where its maps are matrices."""
    found = []
    for step in network.steps:
        if not found:
            found.append([Fraction(float(v)) for v in point])
        elif hasattr(step, "slope"):
            slope = Fraction(step.slope)
            found.append([v if v >= 0 else slope * v for v in found[step.source]])
        else:
            total = [Fraction(float(v)) for v in step.bias]
            for operator, place in step.parts:
                matrix = operator.apply(np.eye(operator.size)).T
                for i, row in enumerate(matrix):
                    total[i] += sum(
                        Fraction(float(w)) * x for w, x in zip(row, found[place], strict=True) if w
                    )
            found.append(total)
    return found


def exact_minimum(network, lower, upper, row, constant):
    """The least value of a row of the outputs: a linear program for each pattern of signs."""
    matrices = [
        None
        if not hasattr(step, "parts")
        else step.parts[0][0].apply(np.eye(step.parts[0][0].size))
        for step in network.steps
    ]
    sizes = [layer.size for layer in network.layers]
    least = np.inf
    for pattern in itertools.product([0, 1], repeat=sum(sizes)):
        signs = np.split(np.array(pattern), np.cumsum(sizes)[:-1])
        factors, shift = np.eye(len(lower)), np.zeros(len(lower))
        rows, limits = [], []
        for step, matrix in zip(network.steps[1:], matrices[1:], strict=True):
            if matrix is None:
                on = signs[network.layers.index(step)].astype(bool)
                rows.append(np.where(on, -factors, factors).T)
                limits.append(np.where(on, shift, -shift))
                slope = np.where(on, 1.0, step.slope)
                factors, shift = factors * slope, shift * slope
            else:
                factors, shift = factors @ matrix, shift @ matrix + step.bias
        found = scipy.optimize.linprog(
            factors @ row,
            np.concatenate(rows),
            np.concatenate(limits),
            bounds=np.stack([lower, upper], 1),
        )
        if found.status == 0:
            least = min(least, found.fun + shift @ row + constant)
    return least


def read(proto, folder):
    onnx.save(proto, folder / "net.onnx")
    return tfcert_check.read_network(folder / "net.onnx")


def small(folder, seed=0, slope=None, gap=0.02, rows=2):
    """A network, and a property that holds by a small gap in each of two cases."""
    network = read(mlp((2, 4, 3, 2), seed, slope), folder)
    lower, upper = np.array([-1.0, -0.5]), np.array([0.75, 1.0])
    alternatives = []
    for row in ((1.0, -1.0), (-1.0, 0.5)):
        least = exact_minimum(network, lower, upper, -np.array(row), 0.0)
        loose = [[1.0, 1.0, 1e3]] * (rows - 1)  # A row that is always met: it refutes nothing.
        alternatives.append([*loose, [*row, float(least - gap)]])
    return Files(
        folder, mlp((2, 4, 3, 2), seed, slope), property_text(lower, upper, 2, alternatives)
    )


def one_leaf(found):
    """A proof that does not split at all."""
    count = len(found.asked.cases)
    zeros = np.zeros(count, np.int64)
    return {
        "format": np.array("tfcert proof 1"),
        "network": np.array(found.network.sha256),
        "property": np.array(found.asked.sha256),
        "roots": np.arange(count),
        **dict.fromkeys(("kind", "child", "layer", "index"), zeros),
        "point": np.zeros(count),
        "slopes": zeros - 1,
        "sweep": np.zeros(count, bool),
        "starts": np.zeros(count + 1, np.int64),
        "multipliers": np.zeros(0),
    }
