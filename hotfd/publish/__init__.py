"""How releases are made from what somebody has committed to a git or Subversion repository.

A module is a directory of the repository. The way of a change, module by module of this package::

    repository (git, svn, files)  which revisions there are, and the files of one
      compile                     files -> values, by documents, instruction and script
        publisher                 revisions in order -> releases -> the store
          hooks, worker, spool    the same whenever somebody commits, without holding him up

Nothing here runs in a server: servers read releases by :mod:`hotfd.config`, and know of no repository.
"""
