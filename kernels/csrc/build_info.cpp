// The version of torch this library was built with, as a string that kernels/extension.py finds in the file's bytes. It
// has to read it before it loads the library, because one built with another torch may crash when loaded.
extern "C" __attribute__((used, visibility("default"))) const char vae_fast_built_with[] =
    "vae_fast built with torch " VAE_FAST_TORCH_VERSION;
