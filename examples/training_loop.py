"""Your model, your training loop: a fair network on the toy problem, one strength each.

Only the losses of fairjax are used. The strength of the penalty is an array, so one
compiled program trains a network for every strength at once.

    python examples/training_loop.py
"""

import jax
import jax.numpy as jnp
import optax

from fairjax import datasets, erm, metrics, notions, penalties

DATA = datasets.toy()
STRENGTHS = jnp.array([0.0, 0.03, 0.1, 0.3, 1.0])
OPTIMIZER = optax.adam(1e-2)


def network(params, features):
    hidden = jnp.tanh(features @ params["inner"] + params["bias"])
    return hidden @ params["outer"]


def objective(params, features, labels, groups, lam):
    scores = network(params, features)
    cond = notions.equal_opportunity(groups, labels, n_groups=DATA.n_groups)
    risk = erm.empirical_risk(scores, labels, loss=erm.logistic)
    return risk + lam * penalties.mean_gap(scores, cond)


def train(features, labels, groups, lam, *, width=16, steps=300):
    inner, outer = jax.random.split(jax.random.key(0))
    params = {
        "inner": jax.random.normal(inner, (features.shape[1], width)) / 2,
        "bias": jnp.zeros(width),
        "outer": jax.random.normal(outer, (width,)) / width,
    }

    def step(carry, _):
        params, state = carry
        slopes = jax.grad(objective)(params, features, labels, groups, lam)
        updates, state = OPTIMIZER.update(slopes, state)
        return (optax.apply_updates(params, updates), state), None

    start = (params, OPTIMIZER.init(params))
    return jax.lax.scan(step, start, length=steps)[0][0]


def main():
    part = [jnp.asarray(array) for array in DATA.train]
    trained = jax.jit(jax.vmap(train, in_axes=(None, None, None, 0)))(*part, STRENGTHS)
    features, labels, groups = (jnp.asarray(array) for array in DATA.test)
    cond = notions.equal_opportunity(groups, labels, n_groups=DATA.n_groups)
    print("strength  test accuracy  difference of equal opportunity")
    for index, strength in enumerate(STRENGTHS):
        params = jax.tree.map(lambda leaf, i=index: leaf[i], trained)
        decisions = network(params, features) > 0
        accuracy = metrics.accuracy(decisions, labels)
        gap = metrics.max_gap(decisions, cond)
        print(f"{float(strength):8.2f}  {float(accuracy):13.4f}  {float(gap):.4f}")


if __name__ == "__main__":
    main()
