# Install rules. Everything that is installed finds its neighbours by relative paths: the prefix may be moved.
include(CMakePackageConfigHelpers)

set(KVSIM_PACKAGE_DIR "${CMAKE_INSTALL_LIBDIR}/cmake/kvsim")
set(KVSIM_PC_DIR "${CMAKE_INSTALL_LIBDIR}/pkgconfig")

install(TARGETS kvsim kvsim_static EXPORT kvsimTargets
    ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}"
    LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(FILES ${KVSIM_PUBLIC_HEADERS} DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/kvsim")

if(TARGET kvsim_cuda)
    install(TARGETS kvsim_cuda LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}/kvsim")
    install(TARGETS kvsim_cuda_static ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
endif()

install(EXPORT kvsimTargets NAMESPACE kvsim:: DESTINATION "${KVSIM_PACKAGE_DIR}")
configure_package_config_file(cmake/kvsimConfig.cmake.in "${PROJECT_BINARY_DIR}/kvsimConfig.cmake"
    INSTALL_DESTINATION "${KVSIM_PACKAGE_DIR}"
    NO_SET_AND_CHECK_MACRO)
# Before 1.0 a minor release may break the ABI.
write_basic_package_version_file("${PROJECT_BINARY_DIR}/kvsimConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/kvsimConfig.cmake" "${PROJECT_BINARY_DIR}/kvsimConfigVersion.cmake"
    DESTINATION "${KVSIM_PACKAGE_DIR}")

# kvsim.pc names its prefix relative to its own folder, unless the packager chose an absolute libdir.
if(IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}")
    set(KVSIM_PC_PREFIX "${CMAKE_INSTALL_PREFIX}")
    set(KVSIM_PC_LIBDIR "${CMAKE_INSTALL_LIBDIR}")
else()
    file(RELATIVE_PATH KVSIM_PC_UP "/prefix/${KVSIM_PC_DIR}" "/prefix")
    string(REGEX REPLACE "/$" "" KVSIM_PC_UP "${KVSIM_PC_UP}")
    set(KVSIM_PC_PREFIX "\${pcfiledir}/${KVSIM_PC_UP}")
    set(KVSIM_PC_LIBDIR "\${prefix}/${CMAKE_INSTALL_LIBDIR}")
endif()
if(IS_ABSOLUTE "${CMAKE_INSTALL_INCLUDEDIR}")
    set(KVSIM_PC_INCLUDEDIR "${CMAKE_INSTALL_INCLUDEDIR}")
else()
    set(KVSIM_PC_INCLUDEDIR "\${prefix}/${CMAKE_INSTALL_INCLUDEDIR}")
endif()
set(KVSIM_PC_LIBS_PRIVATE "-lm -pthread")
if(CMAKE_DL_LIBS)
    string(PREPEND KVSIM_PC_LIBS_PRIVATE "-l${CMAKE_DL_LIBS} ")
endif()
if(KVSIM_JSON_ENABLED)
    string(PREPEND KVSIM_PC_LIBS_PRIVATE "-ljansson ")
endif()
if(KVSIM_ZSTD_ENABLED)
    string(PREPEND KVSIM_PC_LIBS_PRIVATE "-lzstd ")
endif()
configure_file(cmake/kvsim.pc.in "${PROJECT_BINARY_DIR}/kvsim.pc" @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/kvsim.pc" DESTINATION "${KVSIM_PC_DIR}")

if(TARGET kvsim-analyze)
    install(TARGETS kvsim-analyze RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
    install(FILES docs/man/kvsim-analyze.1 DESTINATION "${CMAKE_INSTALL_MANDIR}/man1")
    install(FILES share/bash-completion/completions/kvsim-analyze
        DESTINATION "${CMAKE_INSTALL_DATADIR}/bash-completion/completions")
    install(DIRECTORY examples/models/tiny DESTINATION "${CMAKE_INSTALL_DATADIR}/kvsim/models")
    install(DIRECTORY examples/models/prompts DESTINATION "${CMAKE_INSTALL_DATADIR}/kvsim/models")
endif()
if(TARGET kvsim-experiments)
    install(TARGETS kvsim-experiments RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
    install(FILES docs/man/kvsim-experiments.1 DESTINATION "${CMAKE_INSTALL_MANDIR}/man1")
    install(FILES share/bash-completion/completions/kvsim-experiments
        DESTINATION "${CMAKE_INSTALL_DATADIR}/bash-completion/completions")
    install(DIRECTORY examples/experiments DESTINATION "${CMAKE_INSTALL_DATADIR}/kvsim"
        FILES_MATCHING PATTERN "*.json" PATTERN "transformers_engine.py")
endif()

install(FILES README.md CHANGELOG.md LICENSE DESTINATION "${CMAKE_INSTALL_DOCDIR}")
install(FILES examples/embed.c DESTINATION "${CMAKE_INSTALL_DOCDIR}/examples")
install(FILES ${KVSIM_DOCUMENTS} DESTINATION "${CMAKE_INSTALL_DOCDIR}/docs")
install(DIRECTORY docs/images DESTINATION "${CMAKE_INSTALL_DOCDIR}/docs")
