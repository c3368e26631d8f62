"""How a model arranges species and what varies within them: statistics of features that any model can feed.

`alignment` asks whether the arrangement of species follows a trait or habitat, `variation` whether what tells the
variants of a species apart (life stage, sex) lies across what tells species apart. `permutation` holds the null
distributions that respect phylogeny, `synthetic` measures all of it where the truth is known. `docs/emergence.md` has
the formulas with their sources.
"""
