# find_package(klatch) gives two targets: klatch::klatch, the shared library, and klatch::static, which becomes a part of the program.
get_filename_component(_klatch_lib "${CMAKE_CURRENT_LIST_DIR}/../.." ABSOLUTE)
get_filename_component(_klatch_prefix "${_klatch_lib}/@UP@" ABSOLUTE)

if(NOT TARGET klatch::klatch)
  add_library(klatch::klatch SHARED IMPORTED)
  set_target_properties(klatch::klatch PROPERTIES
    IMPORTED_LOCATION "${_klatch_lib}/libklatch.so.@VERSION@"
    IMPORTED_SONAME "libklatch.so.@ABI@"
    INTERFACE_INCLUDE_DIRECTORIES "${_klatch_prefix}/include")
endif()

if(NOT TARGET klatch::static)
  add_library(klatch::static STATIC IMPORTED)
  set_target_properties(klatch::static PROPERTIES
    IMPORTED_LOCATION "${_klatch_lib}/libklatch.a"
    INTERFACE_INCLUDE_DIRECTORIES "${_klatch_prefix}/include"
    INTERFACE_LINK_LIBRARIES "gcc_s;util;rt;pthread;m;dl;c")
endif()

unset(_klatch_lib)
unset(_klatch_prefix)
