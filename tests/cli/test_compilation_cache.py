import warnings

import jax

from fairjax.cli import compilation_cache


def test_programs_are_kept_where_the_user_keeps_such_things(tmp_path, monkeypatch):
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / name)
    before = jax.config.jax_compilation_cache_dir
    with compilation_cache.programs_kept(True):
        # The user's own directory comes first.
        assert jax.config.jax_compilation_cache_dir == before
    with compilation_cache.programs_kept(False):
        assert not jax.config.jax_enable_compilation_cache
    assert jax.config.jax_enable_compilation_cache
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        with compilation_cache.programs_kept(True), warnings.catch_warnings():
            warnings.simplefilter("error")
            inside = jax.config.jax_compilation_cache_dir
        assert jax.config.jax_compilation_cache_dir is None
        (tmp_path / "file").touch()
        monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "file" / name)
        with compilation_cache.programs_kept(True):
            assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    if jax.__version_info__ < (0, 11):
        assert inside is None
    else:
        assert inside.startswith(str(tmp_path / "fairjax" / "programs"))
