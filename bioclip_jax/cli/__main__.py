"""`python -m bioclip_jax.cli`."""

from bioclip_jax.cli import main

if __name__ == "__main__":
    main()
