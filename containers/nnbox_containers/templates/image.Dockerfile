# Rendered by nnbox for the profile "${profile}". Plain instructions only (no --mount, no heredoc): the Docker SDK drives the
# classic builder, which knows nothing else. What changes seldom comes first, so that a new model rebuilds one layer.

FROM ${base_image} AS environment
# This stage stays on the machine, untagged, as the cache of the next build; by the label it can be found and dropped.
LABEL "org.nnunet-box.stage"="environment"
COPY wheels/ /wheels/
COPY requirements.txt /wheels/requirements.txt
COPY pip/ /pip/
# pip runs from its own wheel, so that the base image need not have one. What is never used to predict is deleted (stripping.py
# says what and why); everything else is compiled now, since later nobody may write beside it. A file that is no Python of
# this version is left as it is, as pip does.
RUN python3 -m venv --without-pip /opt/nnbox/venv \
 && PYTHONPATH=$$(echo /pip/*.whl) /opt/nnbox/venv/bin/python -m pip install --no-cache-dir --no-compile --no-index --find-links /wheels --no-deps \
    --require-hashes -r /wheels/requirements.txt \
 && cd /opt/nnbox/venv/lib/python3*/site-packages \
 && ${stripping} \
 && (/opt/nnbox/venv/bin/python -m compileall -q -j 0 . || true)
# Apart from what it needs: another version of the program does not install torch again.
COPY program/ /program/
RUN PYTHONPATH=$$(echo /pip/*.whl) /opt/nnbox/venv/bin/python -m pip install --no-cache-dir --no-index --no-deps /program/*.whl

FROM ${base_image}
USER root
# Platforms look the user up in passwd, home folder included; a minimal base has no useradd.
RUN grep -q '^[^:]*:[^:]*:${uid}:' /etc/passwd || echo 'nnbox:x:${uid}:${gid}:nnbox:/tmp:/usr/sbin/nologin' >> /etc/passwd; \
    grep -q '^[^:]*:[^:]*:${gid}:' /etc/group || echo 'nnbox:x:${gid}:' >> /etc/group
COPY --from=environment /opt/nnbox/venv /opt/nnbox/venv
# Nothing but /tmp and ${output} is ever written. USER and LOGNAME name a user where the container is started under an id
# that passwd does not know. One thread per core would run into a limit on processes (64) where there are many cores.
ENV HOME=/tmp \
    TMPDIR=/tmp \
    XDG_CACHE_HOME=/tmp/.cache \
    USER=nnbox \
    LOGNAME=nnbox \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYDANTIC_DISABLE_PLUGINS=__all__ \
    OMP_THREAD_LIMIT=32 \
    OPENBLAS_NUM_THREADS=1 \
    NUMEXPR_MAX_THREADS=4 \
    NUMEXPR_NUM_THREADS=4 \
    BLOSC_NTHREADS=4 \
    ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS=4
COPY start/ /usr/local/bin/
USER ${uid}:${gid}
WORKDIR /tmp
# A wheel that is missing or does not fit the base shows here, not at the organiser's.
RUN ${import_check}
# Up to here all profiles of a model share their layers, and all models their program.
${weights}
COPY nnbox/ /opt/nnbox/
${start}
# The program ends on it within seconds, also as the first process of a container.
STOPSIGNAL SIGTERM
LABEL ${labels}
