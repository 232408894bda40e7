"""One module for each thing that is measured: ``TITLE``, and ``run(settings)``, which returns a section."""
