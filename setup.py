from setuptools import setup

setup(
    packages=["vae_fast", "vae_fast.kernels"],
    package_dir={"vae_fast": "vae_fast", "vae_fast.kernels": "kernels"},
)
